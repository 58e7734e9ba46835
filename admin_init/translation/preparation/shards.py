"""Parts of a split that one process works on: a shard each, a file for each stage.

A shard's files appear whole or not at all, so that the ones that are there when a run is taken up
need not be made again.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from admin_init._utils.atomic_files import write_text, write_whole

EOS = "</s>"


class Shard(NamedTuple):
    """A part of a split on its way from raw text to ids.

    Its files are ``raw`` and ``text`` (:class:`TextPairs`), ``words`` (counts of words) and ``ids``
    (:class:`IdPairs`).
    """

    folder: Path
    """Folder of the files of all shards."""
    split: str
    """The split, such as ``train``."""
    number: int
    """Which shard of the split, from 0."""
    before: int = 0
    """How many pairs the shards before it have as ``text``; known once all of these are there."""

    def path(self, stage: str) -> Path:
        """Return the file of a stage."""
        return self.folder / f"{self.split}.{self.number:06}.{stage}"


@dataclass
class TextPairs:
    """The sentence pairs of a shard as text, raw or preprocessed."""

    lines: list[int] = field(default_factory=list)
    """The line of each pair in its split, counted from 1."""
    sources: list[str] = field(default_factory=list)
    """One side of each pair."""
    targets: list[str] = field(default_factory=list)
    """The other."""
    references: list[str] = field(default_factory=list)
    """The plain translations; none where nobody will need them."""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """The lines of the pairs that were left out, by the reason."""

    def save(self, path: Path) -> None:
        """Write the pairs."""
        write_text(path, f"{len(self.lines)}\n{json.dumps(vars(self), ensure_ascii=False)}")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the pairs."""
        return cls(**json.loads(path.read_bytes().partition(b"\n")[2]))

    @staticmethod
    def count(path: Path) -> int:
        """Return how many pairs a file has, without reading them."""
        with path.open("rb") as file:
            return int(file.readline())


_ARRAYS = ("source", "target", "source_sizes", "target_sizes")
_ids = partial(array, "I")
_sizes = partial(array, "i")


@dataclass
class IdPairs:
    """The sentence pairs of a shard as ids of its own, before there is a common dictionary."""

    vocabulary: dict[str, int] = field(default_factory=lambda: {EOS: 0})
    """The id of each token."""
    source: array[int] = field(default_factory=_ids)
    """The ids of all source sentences, one after another, each with ``</s>``."""
    target: array[int] = field(default_factory=_ids)
    """Those of the target sentences."""
    source_sizes: array[int] = field(default_factory=_sizes)
    """How many ids each source sentence has."""
    target_sizes: array[int] = field(default_factory=_sizes)
    """How many each target sentence has."""
    references: list[str] = field(default_factory=list)
    """The plain translations; none in ``train``."""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """The lines of the pairs that were left out at any stage, by the reason."""
    drawn: int = 0
    """Pairs that were given to another split."""

    def append(self, source: list[str], target: list[str]) -> None:
        """Add a pair of which the two sides are subwords."""
        self._append(source, self.source, self.source_sizes)
        self._append(target, self.target, self.target_sizes)

    def _append(self, subwords: list[str], ids: array[int], sizes: array[int]) -> None:
        vocabulary = self.vocabulary
        ids.extend([vocabulary.setdefault(token, len(vocabulary)) for token in subwords])
        ids.append(vocabulary[EOS])
        sizes.append(len(subwords) + 1)

    def save(self, path: Path) -> None:
        """Write the pairs."""
        content = dict(vars(self))
        vocabulary = content.pop("vocabulary")
        arrays: dict[str, Any] = {name: np.asarray(content.pop(name)) for name in _ARRAYS}
        counts = np.bincount(arrays["source"], minlength=len(vocabulary))
        counts += np.bincount(arrays["target"], minlength=len(vocabulary))
        content["counts"] = dict(zip(vocabulary, counts.tolist(), strict=True))
        arrays["rest"] = np.frombuffer(json.dumps(content).encode("utf-8"), np.uint8)
        for name in ("source", "target"):
            arrays[name] = arrays[name].astype(np.min_scalar_type(len(vocabulary)))
        write_whole(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the pairs."""
        with np.load(path) as content:
            rest = json.loads(content["rest"].tobytes())
            vocabulary = {token: i for i, token in enumerate(rest.pop("counts"))}
            return cls(
                vocabulary=vocabulary,
                source=_ids(content["source"].astype("I").tobytes()),
                target=_ids(content["target"].astype("I").tobytes()),
                source_sizes=_sizes(content["source_sizes"].tobytes()),
                target_sizes=_sizes(content["target_sizes"].tobytes()),
                **rest,
            )

    @staticmethod
    def counts(path: Path) -> Counter[str]:
        """Return how often each token occurs in a file, and read nothing else."""
        with np.load(path) as content:
            return Counter(json.loads(content["rest"].tobytes())["counts"])
