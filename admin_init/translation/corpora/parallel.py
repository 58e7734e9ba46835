"""Parallel corpora: sentence pairs in splits, read from text files as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from os import PathLike
from pathlib import Path

from admin_init.errors import CorpusError
from admin_init.translation.corpora.texts import COMPRESSED, Text, TextLimits


@dataclass(frozen=True, kw_only=True)
class ParallelCorpus:
    """Sentence pairs in two languages, in splits."""

    source_lang: str
    """Language to translate from, such as ``en``."""
    target_lang: str
    """Language to translate into, such as ``de``."""
    splits: Mapping[str, Iterable[tuple[str, str]]]
    """The (source, target) pairs of ``train`` and, optionally, ``valid`` and ``test``. Each split
    can be iterated several times: it is a list, for example, or :class:`ParallelFiles`."""

    def __post_init__(self) -> None:
        check_languages(self.source_lang, self.target_lang)

    def within(self, limits: TextLimits) -> ParallelCorpus:
        """Return the corpus with other limits on the size of its files."""
        splits = {name: _within(pairs, limits) for name, pairs in self.splits.items()}
        return replace(self, splits=splits)


@dataclass(frozen=True)
class ParallelFiles:
    """The sentence pairs of two texts, line by line.

    Iterating raises a :class:`CorpusError` if a text is missing, damaged or not UTF-8, or if the
    two have different numbers of sentences.
    """

    source: Path | Text
    """A text file in UTF-8, plain or compressed, or a :class:`Text` in an archive."""
    target: Path | Text
    """The translation, with the same number of lines."""
    limits: TextLimits | None = field(default=None, kw_only=True)
    """Limits of both texts; None to use the limits of each text."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        counts = [0, 0]
        for source, target in zip_longest(self._text(self.source), self._text(self.target)):
            counts[0] += source is not None
            counts[1] += target is not None
            if source is not None and target is not None:
                yield source, target
        if counts[0] != counts[1]:
            raise CorpusError(
                f"{self.source} has {counts[0]:,} lines, but {self.target} has {counts[1]:,}. Each "
                "line of one must be the translation of the same line of the other."
            )

    @property
    def files(self) -> list[str]:
        """Readable names of the two texts."""
        return [str(self.source), str(self.target)]

    def _text(self, text: Path | Text) -> Text:
        text = text if isinstance(text, Text) else Text(text)
        return text if self.limits is None else replace(text, limits=self.limits)


@dataclass(frozen=True)
class Concatenation:
    """The sentence pairs of several corpora, one corpus after another."""

    parts: tuple[ParallelFiles, ...]
    """The corpora, in order."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for part in self.parts:
            yield from part

    @property
    def files(self) -> list[str]:
        """Readable names of all texts."""
        return [name for part in self.parts for name in part.files]


def check_languages(source_lang: str, target_lang: str) -> None:
    """Raise a CorpusError if the two languages are the same."""
    if source_lang == target_lang:
        raise CorpusError(
            f"`source_lang` and `target_lang` are both {source_lang!r}, but must differ, because "
            "they name the files of the two sides. Rename one of them."
        )


def parallel_files(
    folder: str | PathLike[str],
    source_lang: str,
    target_lang: str,
    *,
    train: str = "train",
    valid: str | None = "valid",
    test: str | None = "test",
) -> ParallelCorpus:
    """Open a corpus with one file per split and language, such as ``train.en``, ``train.de.xz``.

    Args:
        folder: The folder of the files.
        source_lang: The ending of the source files, without ``.gz`` and the like.
        target_lang: The ending of the target files, without ``.gz`` and the like.
        train: The name of the training files, without the ending.
        valid: The name of the validation files; None if there are none.
        test: The name of the test files; None if there are none.

    Raises:
        CorpusError: A file is missing.
    """
    stems = {"train": train, "valid": valid, "test": test}
    splits = {
        split: ParallelFiles(
            _plain_or_compressed(Path(folder), f"{stem}.{source_lang}"),
            _plain_or_compressed(Path(folder), f"{stem}.{target_lang}"),
        )
        for split, stem in stems.items()
        if stem is not None
    }
    return ParallelCorpus(source_lang=source_lang, target_lang=target_lang, splits=splits)


def _plain_or_compressed(folder: Path, name: str) -> Path:
    for ending in ("", *COMPRESSED):
        if (path := folder / f"{name}{ending}").exists():
            return path
    raise CorpusError(
        f"The corpus has no file {folder / name}, neither plain nor as {', '.join(COMPRESSED)}."
    )


def _within(pairs: Iterable[tuple[str, str]], limits: TextLimits) -> Iterable[tuple[str, str]]:
    if isinstance(pairs, Concatenation):
        return replace(pairs, parts=tuple(replace(part, limits=limits) for part in pairs.parts))
    return replace(pairs, limits=limits) if isinstance(pairs, ParallelFiles) else pairs
