"""Subwords: one byte-pair encoding for both languages, by subword-nmt."""

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
        model: The merge operations, as subword-nmt writes them, in UTF-8.

    Raises:
        CorpusError: These are no merge operations.
        MissingExtraError: subword-nmt is not installed.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        """What :meth:`load` reads from a file."""
        apply_bpe = import_extra("wmt", "subword_nmt.apply_bpe")
        try:
            # What is wrong it prints, and ends the process.
            with contextlib.redirect_stderr(io.StringIO()) as complaint:
                self._bpe = apply_bpe.BPE(io.StringIO(model.decode("utf-8")))
        except (SystemExit, ValueError, IndexError) as error:
            raise CorpusError(
                f"These are no merge operations of subword-nmt: {complaint.getvalue() or error}"
            ) from error
        self._pieces: dict[str, list[str]] = {}

    @classmethod
    def learn(cls, counts: Iterable[tuple[str, int]], merges: int) -> Self:
        """Learns merge operations; the same counts give the same ones, in whatever order they come.

        Args:
            counts: The distinct words of both languages, and how often each occurs.
            merges: The most operations. Fewer come out where no pair is left that occurs twice.

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
        """Return the subwords of words that have spaces between them."""
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
        """Return the words, with spaces between them."""
        return _JOINT.sub("", " ".join(pieces))
