"""Parallel corpora: where the sentence pairs come from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from os import PathLike
from pathlib import Path

from admin_init.translation.errors import CorpusError
from admin_init.translation.texts import Text


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


@dataclass(frozen=True)
class ParallelFiles:
    """The sentence pairs of two texts, line by line.

    Iterating raises a :class:`CorpusError` for a text that is missing, damaged or not UTF-8, and
    where the two do not have the same number of sentences.
    """

    source: Path | Text
    """A text in UTF-8, plain or ``.gz``, or a :class:`Text` that lies in an archive."""
    target: Path | Text
    """Its translation, which has as many lines."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        counts = [0, 0]
        for source, target in zip_longest(_text(self.source), _text(self.target)):
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


def parallel_files(
    folder: str | PathLike[str],
    source_lang: str,
    target_lang: str,
    *,
    train: str = "train",
    valid: str | None = "valid",
    test: str | None = "test",
) -> ParallelCorpus:
    """Finds a corpus of one file a split and language, such as ``train.en`` and ``train.de.gz``.

    Args:
        folder: Where the files lie.
        source_lang: The ending of the source files, before ``.gz``.
        target_lang: The ending of the target files, before ``.gz``.
        train: The name of the training files, without the ending.
        valid: The name of the validation files; None where there are none.
        test: The name of the test files; None where there are none.

    Raises:
        CorpusError: A file is missing.
    """
    stems = {"train": train, "valid": valid, "test": test}
    splits = {
        split: ParallelFiles(
            _plain_or_gzip(Path(folder), f"{stem}.{source_lang}"),
            _plain_or_gzip(Path(folder), f"{stem}.{target_lang}"),
        )
        for split, stem in stems.items()
        if stem is not None
    }
    return ParallelCorpus(source_lang=source_lang, target_lang=target_lang, splits=splits)


def _plain_or_gzip(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise CorpusError(f"The corpus has no {folder / name}, neither plain nor as .gz.")


def _text(text: Path | Text) -> Text:
    return text if isinstance(text, Text) else Text(text)
