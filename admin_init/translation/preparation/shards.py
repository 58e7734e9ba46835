"""Parts of a split that one process works on: a shard each, a file for each stage.

A shard's files appear whole or not at all, so that the ones that are there when a run is taken up
need not be made again.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from admin_init._utils.atomic_files import write_text, write_whole
from admin_init.errors import CorpusError

EOS = "</s>"

Ids = npt.NDArray[np.unsignedinteger[Any]]


class Shard(NamedTuple):
    """Where in a corpus a shard lies, and where its files do."""

    folder: Path
    """Of the files of all shards."""
    split: str
    """The split, such as ``train``."""
    number: int
    """Which shard of the split, from 0."""

    def path(self, stage: str) -> Path:
        """Return the file of a stage."""
        return self.folder / f"{self.split}.{self.number:06}.{stage}"


@dataclass
class TextShard:
    """Sentence pairs that are to be split into subwords."""

    first_line: int
    """The line in the split, counted from 1, of the first pair that was read for this shard."""
    read: int
    """How many were."""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """The lines of those that were left out, by the reason."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """The others, preprocessed."""
    references: list[str] = field(default_factory=list)
    """Their plain translations; none where nobody will need them."""

    @property
    def kept(self) -> int:
        """How many pairs there are."""
        return self.read - sum(map(len, self.dropped.values()))

    @cached_property
    def lines(self) -> list[int]:
        """The line in the split of every pair."""
        dropped = {line for lines in self.dropped.values() for line in lines}
        lines = range(self.first_line, self.first_line + self.read)
        return [line for line in lines if line not in dropped]

    def save(self, path: Path) -> None:
        """Write the shard."""
        head = {"first_line": self.first_line, "read": self.read, "dropped": self.dropped}
        lines = [json.dumps(head), *(text for pair in self.pairs for text in pair)]
        content = "".join(f"{line}\n" for line in (*lines, *self.references))
        write_text(path, content)

    @classmethod
    def load_head(cls, path: Path) -> Self:
        """Read all but the pairs and references."""
        with path.open("rb") as file:
            return cls(**json.loads(file.readline()))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the shard."""
        head, *lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        shard = cls(**json.loads(head))
        end = 2 * shard.kept
        shard.pairs = list(zip(lines[:end:2], lines[1:end:2], strict=True))
        shard.references = lines[end:]
        return shard


@dataclass
class IdShard:
    """Sentence pairs as ids of the shard's own vocabulary, before there is a common dictionary."""

    tokens: list[str]
    """The vocabulary."""
    counts: list[int]
    """How often each of its tokens occurs."""
    source: Ids
    """The ids of all source sentences, one after another, each with ``</s>``."""
    target: Ids
    """Those of the target sentences."""
    source_sizes: npt.NDArray[np.int32]
    """How many ids each source sentence has."""
    target_sizes: npt.NDArray[np.int32]
    """How many each target sentence has."""
    references: list[str]
    """The plain translations; none in ``train``."""
    dropped: dict[str, list[int]]
    """The lines of the pairs that were left out at any stage, by the reason."""
    drawn: int = 0
    """Pairs that were given to another split."""

    def save(self, path: Path) -> None:
        """Write the shard."""
        content = dict(vars(self))
        arrays = {name: content.pop(name) for name in _ARRAYS}
        rest = np.frombuffer(json.dumps(content).encode("utf-8"), np.uint8)
        write_whole(path, lambda file: np.savez(file, rest=rest, **arrays))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the shard."""
        with np.load(path) as content:
            arrays = {name: content[name] for name in _ARRAYS}
            return cls(**arrays, **json.loads(content["rest"].tobytes()))

    @classmethod
    def load_counts(cls, path: Path) -> Counter[str]:
        """Read how often each token occurs, and nothing else."""
        with np.load(path) as content:
            rest = json.loads(content["rest"].tobytes())
        return Counter(dict(zip(rest["tokens"], rest["counts"], strict=True)))


_ARRAYS = ("source", "target", "source_sizes", "target_sizes")


class IdShardBuilder:
    """Collects an :class:`IdShard`, pair by pair.

    Args:
        dropped: The lines of the pairs that were left out before, by the reason.
    """

    def __init__(self, dropped: dict[str, list[int]]) -> None:
        self._dropped = dropped
        self._vocabulary = {EOS: 0}
        self._ids = array("I"), array("I")
        self._sizes = array("i"), array("i")
        self._references: list[str] = []
        self.read = 0
        """How many pairs were added or dropped."""

    def add(self, source: list[str], target: list[str], reference: str | None) -> None:
        """Append a pair.

        Args:
            source: The subwords of one side.
            target: Those of the other.
            reference: The plain translation; None in ``train``.
        """
        vocabulary = self._vocabulary
        for pieces, ids, sizes in zip((source, target), self._ids, self._sizes, strict=True):
            ids.extend([vocabulary.setdefault(piece, len(vocabulary)) for piece in pieces])
            ids.append(vocabulary[EOS])
            sizes.append(len(pieces) + 1)
        if reference is not None:
            self._references.append(reference)
        self.read += 1

    def drop(self, line: int, reason: str) -> None:
        """Note the line of a pair that is left out."""
        self._dropped.setdefault(reason, []).append(line)
        self.read += 1

    def build(self, *, drawn: int = 0) -> IdShard:
        """Return the shard.

        Args:
            drawn: How many pairs were given to another split.
        """
        dtype = np.min_scalar_type(len(self._vocabulary))
        source, target = (np.asarray(ids, dtype) for ids in self._ids)
        counts = np.bincount(np.concatenate([source, target]), minlength=len(self._vocabulary))
        source_sizes, target_sizes = (np.asarray(sizes, np.int32) for sizes in self._sizes)
        return IdShard(
            tokens=list(self._vocabulary),
            counts=counts.tolist(),
            source=source,
            target=target,
            source_sizes=source_sizes,
            target_sizes=target_sizes,
            references=self._references,
            dropped=self._dropped,
            drawn=drawn,
        )


class Reading:
    """Reads pairs in lists, and notes what it has read.

    Args:
        pairs: Sentence pairs.
        size: How many a list has; the last may have fewer.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], size: int) -> None:
        self._pairs = pairs
        self._size = size
        self._digest = hashlib.sha256()
        self.read = 0
        """How many pairs have been read."""

    def __iter__(self) -> Iterator[list[tuple[str, str]]]:
        pairs = iter(self._pairs)
        while part := list(islice(pairs, self._size)):
            text = "".join(f"{source}\n{target}\n" for source, target in part)
            try:
                self._digest.update(text.encode("utf-8"))
            except UnicodeEncodeError as error:
                raise CorpusError(
                    f"After pair {self.read:,} there is {error.object[error.start]!r}, a half of a "
                    "surrogate pair, which UTF-8 has no bytes for. Read the text as UTF-8."
                ) from error
            self.read += len(part)
            yield part

    @property
    def sha256(self) -> str:
        """Of the pairs that have been read."""
        return self._digest.hexdigest()
