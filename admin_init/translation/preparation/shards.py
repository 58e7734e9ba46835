"""Shards: parts of a split, each handled by one process, with one file per stage.

Files are written atomically, so a resumed run can trust the files that exist.
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
    """A part of a split.

    Its files are named by stage: ``raw`` and ``text`` (:class:`TextPairs`), ``words`` (word counts)
    and ``ids`` (:class:`IdPairs`).
    """

    folder: Path
    """Folder of the files of all shards."""
    split: str
    """Name of the split, such as ``train``."""
    number: int
    """Index of the shard in its split, from 0."""
    before: int = 0
    """Number of pairs at stage ``text`` in earlier shards of the split; set after that stage."""

    def path(self, stage: str) -> Path:
        """Return the file of a stage."""
        return self.folder / f"{self.split}.{self.number:06}.{stage}"


@dataclass
class TextPairs:
    """The sentence pairs of a shard as text, raw or preprocessed."""

    lines: list[int] = field(default_factory=list)
    """Line number of each pair in its split, counted from 1."""
    sources: list[str] = field(default_factory=list)
    """Source sentences."""
    targets: list[str] = field(default_factory=list)
    """Target sentences."""
    references: list[str] = field(default_factory=list)
    """Plain target sentences for scoring; empty for pairs that are only trained on."""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Line numbers of dropped pairs, by reason."""

    def save(self, path: Path) -> None:
        """Write the pairs."""
        write_text(path, f"{len(self.lines)}\n{json.dumps(vars(self), ensure_ascii=False)}")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the pairs."""
        return cls(**json.loads(path.read_bytes().partition(b"\n")[2]))

    @staticmethod
    def count(path: Path) -> int:
        """Return the number of pairs in a file without reading the pairs."""
        with path.open("rb") as file:
            return int(file.readline())


_ARRAYS = ("source", "target", "source_sizes", "target_sizes")
_ids = partial(array, "I")
_sizes = partial(array, "i")


@dataclass
class IdPairs:
    """The sentence pairs of a shard as ids of a vocabulary of the shard's own.

    The joined dictionary does not exist yet: it is built from the counts of all shards.
    """

    vocabulary: dict[str, int] = field(default_factory=lambda: {EOS: 0})
    """The id of each token."""
    source: array[int] = field(default_factory=_ids)
    """Ids of all source sentences, concatenated, each ending in ``</s>``."""
    target: array[int] = field(default_factory=_ids)
    """Ids of all target sentences, concatenated, each ending in ``</s>``."""
    source_sizes: array[int] = field(default_factory=_sizes)
    """Number of ids of each source sentence."""
    target_sizes: array[int] = field(default_factory=_sizes)
    """Number of ids of each target sentence."""
    references: list[str] = field(default_factory=list)
    """Plain target sentences for scoring; empty in ``train``."""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Line numbers of the pairs that any stage dropped, by reason."""
    drawn: int = 0
    """Number of pairs moved to another split."""

    def append(self, source: list[str], target: list[str]) -> None:
        """Add a pair of sentences, given as subwords."""
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
        """Return the number of occurrences of each token in a file without reading the pairs."""
        with np.load(path) as content:
            return Counter(json.loads(content["rest"].tobytes())["counts"])
