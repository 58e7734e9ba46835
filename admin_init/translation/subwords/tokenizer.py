"""From plain text to the subwords of a prepared corpus, and back."""

from os import PathLike
from pathlib import Path
from typing import Protocol

from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import NAME, Manifest
from admin_init.translation.preparation.preprocessing import Preprocessor
from admin_init.translation.subwords.sentencepiece import SentencePiece
from admin_init.translation.subwords.subword_nmt import BytePairs

SUBWORD_MODELS = {"sentencepiece": "sentencepiece.bpe.model", "subword-nmt": "bpecodes"}
"""What the subword model is called in a prepared folder: names that fairseq's hub knows."""


class Subwords(Protocol):
    """What was learned from a corpus, and splits its text."""

    model: bytes
    """What :func:`load_subwords` reads from a file."""

    def split(self, text: str) -> list[str]:
        """Return the subwords of a preprocessed sentence."""

    def join(self, pieces: list[str]) -> str:
        """Return the preprocessed sentence of these subwords."""


class Tokenizer:
    """Turns plain source text into subwords, and the subwords of a translation into plain text.

    Args:
        source: What precedes the splitting of a source sentence.
        target: What preceded the splitting of target sentences, to be undone.
        subwords: Of both languages.
    """

    def __init__(self, source: Preprocessor, target: Preprocessor, subwords: Subwords) -> None:
        self._source = source
        self._target = target
        self._subwords = subwords

    def encode(self, text: str) -> list[str]:
        """Return the subwords of a source sentence, preprocessed as the training data were."""
        return self._subwords.split(self._source(text))

    def decode(self, pieces: list[str]) -> str:
        """Return the plain, detokenized text that the subwords of a translation spell."""
        return self._target.restore(self._subwords.join(pieces))


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """Load what a corpus was prepared with.

    Args:
        folder: The prepared folder. Where it has no manifest, fairseq made it, and somebody may
            have put a SentencePiece model beside.

    Raises:
        CorpusError: The subword model is missing or damaged.
        MissingExtraError: What the subword model needs is not installed.
    """
    folder = Path(folder)
    settings = Manifest.load(folder).settings if (folder / NAME).exists() else {}
    config = PrepareConfig.from_settings(settings)
    source, target = (
        Preprocessor(settings.get(side, ""), config) for side in ("source_lang", "target_lang")
    )
    return Tokenizer(source, target, load_subwords(folder, config))


def load_subwords(folder: str | PathLike[str], config: PrepareConfig) -> Subwords:
    """Load the subword model of a prepared folder.

    Raises:
        CorpusError: The file is missing or damaged.
        MissingExtraError: What the subword model needs is not installed.
    """
    path = Path(folder) / SUBWORD_MODELS[config.subwords]
    if config.subwords == "sentencepiece":
        return SentencePiece.load(path)
    return BytePairs.load(path)
