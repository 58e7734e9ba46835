"""Parallel corpora: where the sentence pairs come from."""

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
    """Sentence pairs of two languages, in splits."""

    source_lang: str
    """The language translated from, such as ``en``."""
    target_lang: str
    """The language translated into, such as ``de``."""
    splits: Mapping[str, Iterable[tuple[str, str]]]
    """``train``, and as many of ``valid`` and ``test`` as there are. Each gives its (source,
    target) pairs anew whenever it is iterated: a list, say, or :class:`ParallelFiles`."""

    def __post_init__(self) -> None:
        check_languages(self.source_lang, self.target_lang)

    def within(self, limits: TextLimits) -> ParallelCorpus:
        """Return the corpus with other limits of how large its files may be."""
        splits = {name: _within(pairs, limits) for name, pairs in self.splits.items()}
        return replace(self, splits=splits)


@dataclass(frozen=True)
class ParallelFiles:
    """The sentence pairs of two texts, line by line.

    Iterating raises a :class:`CorpusError` for a text that is missing, damaged or not UTF-8, and
    where the two do not have the same number of sentences.
    """

    source: Path | Text
    """A text in UTF-8, plain or compressed, or a :class:`Text` that lies in an archive."""
    target: Path | Text
    """Its translation, which has as many lines."""
    limits: TextLimits | None = field(default=None, kw_only=True)
    """Limits of both texts, in place of their own."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        counts = [0, 0]
        for source, target in zip_longest(self._text(self.source), self._text(self.target)):
            counts[0] += source is not None
            counts[1] += target is not None
            if source is not None and target is not None:
                yield source, target
        if counts[0] != counts[1]:
            raise CorpusError(
                f"{self.source} has {counts[0]:,} lines, but {self.target} has {counts[1]:,}: line "
                "i of one must be the translation of line i of the other."
            )

    @property
    def files(self) -> list[str]:
        """What is read, for people."""
        return [str(self.source), str(self.target)]

    def _text(self, text: Path | Text) -> Text:
        text = text if isinstance(text, Text) else Text(text)
        return text if self.limits is None else replace(text, limits=self.limits)


@dataclass(frozen=True)
class Concatenation:
    """The sentence pairs of several pairs of texts, one after another."""

    parts: tuple[ParallelFiles, ...]
    """Their order is that of the pairs."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for part in self.parts:
            yield from part

    @property
    def files(self) -> list[str]:
        """What is read, for people."""
        return [name for part in self.parts for name in part.files]


def check_languages(source_lang: str, target_lang: str) -> None:
    """Raise a CorpusError where the two are one: their files would have the same names."""
    if source_lang == target_lang:
        raise CorpusError(
            f"`source_lang` and `target_lang` are both {source_lang!r}, but must differ: the files "
            "of the two sides are told apart by them. Give one of them another name."
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
    """Find a corpus of one file a split and language, such as ``train.en`` and ``train.de.xz``.

    Args:
        folder: Where the files lie.
        source_lang: The ending of the source files, before ``.gz`` or its like.
        target_lang: The ending of the target files, before ``.gz`` or its like.
        train: The name of the training files, without the ending.
        valid: The name of the validation files; None where there are none.
        test: The name of the test files; None where there are none.

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
        f"The corpus has no {folder / name}, neither plain nor as {', '.join(COMPRESSED)}."
    )


def _within(pairs: Iterable[tuple[str, str]], limits: TextLimits) -> Iterable[tuple[str, str]]:
    if isinstance(pairs, Concatenation):
        return replace(pairs, parts=tuple(replace(part, limits=limits) for part in pairs.parts))
    return replace(pairs, limits=limits) if isinstance(pairs, ParallelFiles) else pairs
