"""Subwords of subword-nmt: one byte-pair encoding for both languages."""

import contextlib
import io
import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Self

from admin_init.errors import CorpusError, import_extra

_JOINT = re.compile(r"@@( |$)")
_CACHED_WORDS = 500_000


class BytePairs:
    """Splits words into subwords (``un@@ related``) and joins them again.

    Source: Sennrich et al. (2016), https://aclanthology.org/P16-1162.

    Args:
        model: The merge operations, in subword-nmt's file format.

    Raises:
        CorpusError: The bytes are not merge operations.
        MissingExtraError: subword-nmt is not installed.

    Examples:
        >>> bpe = BytePairs.learn({"low": 5, "lower": 2, "newer": 6}.items(), merges=3)
        >>> bpe.split("lower newer")
        ['lo@@', 'wer', 'n@@', 'e@@', 'wer']
        >>> bpe.join(bpe.split("lower newer"))
        'lower newer'
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        """The merge operations, which are the content of their file."""
        apply_bpe = import_extra("wmt", "subword_nmt.apply_bpe")
        try:
            # On an error, subword-nmt prints a message and ends the process.
            with contextlib.redirect_stderr(io.StringIO()) as complaint:
                self._bpe = apply_bpe.BPE(io.StringIO(model.decode("utf-8")))
        except (SystemExit, ValueError, IndexError) as error:
            raise CorpusError(
                f"These are not merge operations of subword-nmt: {complaint.getvalue() or error}"
            ) from error
        self._pieces: dict[str, list[str]] = {}

    @classmethod
    def learn(cls, counts: Iterable[tuple[str, int]], merges: int) -> Self:
        """Learn merge operations. The order of the words does not matter.

        Args:
            counts: The distinct words of both languages, with their counts.
            merges: Maximum number of operations. There are fewer if no pair of subwords is left
                that occurs twice.

        Returns:
            The model.

        Raises:
            CorpusError: There are no words.
            MissingExtraError: subword-nmt is not installed.
        """
        learn_bpe = import_extra("wmt", "subword_nmt.learn_bpe")
        codes = io.StringIO()
        words = (f"{word} {count}" for word, count in counts)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                learn_bpe.learn_bpe(words, codes, merges, is_dict=True)
        except ValueError as error:
            raise CorpusError(
                f"subword-nmt cannot learn {merges} merges from this corpus: {error}"
            ) from error
        return cls(codes.getvalue().encode("utf-8"))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read merge operations.

        Raises:
            CorpusError: The file is missing or damaged.
            MissingExtraError: subword-nmt is not installed.
        """
        try:
            return cls(Path(path).read_bytes())
        except (OSError, CorpusError) as error:
            raise CorpusError(f"The merge operations {path} cannot be read: {error}") from error

    def split(self, text: str) -> list[str]:
        """Split words, which are separated by spaces, into subwords."""
        found: list[str] = []
        for word in text.split(" "):
            pieces = self._pieces.get(word)
            if pieces is None:
                if len(self._pieces) >= _CACHED_WORDS:
                    self._pieces.clear()
                pieces = self._pieces[word] = self._bpe.segment_tokens([word])
                self._bpe.cache.clear()
            found += pieces
        return found

    def join(self, pieces: list[str]) -> str:
        """Join subwords into words, separated by spaces."""
        return _JOINT.sub("", " ".join(pieces))
