"""Subwords of SentencePiece: one byte-pair encoding for both languages."""

import io
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Self

from admin_init.errors import CorpusError, import_extra


class SentencePiece:
    """Splits text into the pieces of a SentencePiece model, and joins them again.

    Args:
        model: The serialized SentencePiece model.

    Raises:
        MissingExtraError: sentencepiece is not installed.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        """The serialized model, which is the content of its file."""
        sentencepiece = import_extra("translation", "sentencepiece")
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def learn(cls, sentences: Iterable[str], vocabulary_size: int) -> Self:
        """Learn a byte-pair encoding. The same sentences give the same model, byte for byte.

        Args:
            sentences: Sentences of both languages.
            vocabulary_size: Maximum number of pieces. There are fewer if the sentences do not
                contain as many.

        Returns:
            The model.

        Raises:
            CorpusError: SentencePiece cannot learn from these sentences.
        """
        sentencepiece = import_extra("translation", "sentencepiece")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocabulary_size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                byte_fallback=False,
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise CorpusError(
                f"SentencePiece cannot learn {vocabulary_size} subwords from this corpus: {error}"
            ) from error
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a SentencePiece model.

        Raises:
            CorpusError: The file is missing or is not a SentencePiece model.
        """
        try:
            return cls(Path(path).read_bytes())
        except (OSError, RuntimeError) as error:
            raise CorpusError(f"The SentencePiece model {path} cannot be read: {error}") from error

    def split(self, text: str) -> list[str]:
        """Split a sentence into pieces."""
        pieces: list[str] = self._processor.encode(text, out_type=str)
        return pieces

    def join(self, pieces: list[str]) -> str:
        """Join pieces into text."""
        text: str = self._processor.decode(pieces)
        return text
