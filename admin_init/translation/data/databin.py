r"""fairseq's memory-mapped data-bins (``.bin`` and ``.idx``), read and written without fairseq.

``<prefix>.bin`` holds the ids of all sentences, concatenated. ``<prefix>.idx`` holds, in little
endian: the magic number ``MMIDIDX\0\0``; the version 1 (8 bytes); a code for the type of the ids
(1 byte); the number of sentences (8 bytes); the length of each sentence (4 bytes each); and the
offset of each sentence in ``.bin``, in bytes (8 bytes each).
Source: ``fairseq/data/indexed_dataset.py``, version 0.12.2.
"""

import errno
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from admin_init._utils.atomic_files import naming, whole_file
from admin_init.errors import CorpusError

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQ")
_PART = 2**16  # sentences
# 6 and 7 are floating-point types.
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def _paths(prefix: str | PathLike[str]) -> tuple[Path, Path]:
    # Not with_suffix, which would replace the language in train.en-de.en.
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


class IndexedDataset:
    """The sentences of a data-bin. Opening it reads only the index.

    Args:
        prefix: The path without ``.bin`` and ``.idx``, such as ``data-bin/train.en-de.en``.
        vocabulary_size: Number of ids in the vocabulary. If given, reading a sentence with an id
            outside it raises a :class:`CorpusError`.

    Raises:
        CorpusError: A file is missing, is not such an index, or does not match the other file.
    """

    sizes: npt.NDArray[np.int32]
    """Number of tokens in each sentence, ``</s>`` included. *Shape:* (sentences,)."""

    def __init__(self, prefix: str | PathLike[str], vocabulary_size: int | None = None) -> None:
        self.prefix = prefix
        self._vocabulary_size = vocabulary_size
        data, index = _paths(prefix)
        try:
            with index.open("rb") as stream:
                dtype, self.sizes, self._starts = _read_index(stream, index)
            held = data.stat().st_size
        except OSError as error:
            raise CorpusError(f"The data-bin {prefix} cannot be read: {error}.") from error
        needed = self.number_of_tokens * dtype.itemsize
        if held != needed:
            raise CorpusError(
                f"{data} holds {held:,} bytes, but its index {index} needs {needed:,}: one of the "
                "two is truncated or belongs to another data-bin. Prepare the corpus again."
            )
        # An empty file cannot be memory-mapped.
        self._ids: npt.NDArray[Any] = (
            np.memmap(data, dtype=dtype, mode="r") if held else np.empty(0, dtype)
        )

    @property
    def number_of_tokens(self) -> int:
        """Total number of tokens in all sentences."""
        return int(self._starts[-1]) + int(self.sizes[-1]) if len(self) else 0

    def __getitem__(self, index: int) -> Tensor:
        """Return the ids of one sentence, int64. *Shape:* (size,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.prefix} has {len(self)} sentences, but the index is {index}")
        start, size = self._starts[index], self.sizes[index]
        ids = self._ids[start : start + size].astype(np.int64)
        known = self._vocabulary_size
        if known is not None and size and not 0 <= ids.min() <= ids.max() < known:
            raise CorpusError(
                f"{self.prefix}.bin is damaged, or belongs to another dictionary: sentence {index} "
                f"has ids from {ids.min()} to {ids.max()}, but the dictionary has {known:,} ids. "
                "Prepare the corpus again."
            )
        return torch.from_numpy(ids)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))

    def __len__(self) -> int:
        return len(self.sizes)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files again: pickling the memory map would copy all ids.
        return type(self), (self.prefix, self._vocabulary_size)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of all sentences; the first access reads them all."""
        return zlib.crc32(self._ids.data, zlib.crc32(self.sizes.data))


def _read_index(
    stream: BinaryIO, path: Path
) -> tuple[np.dtype[Any], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Read the type of the ids, the size of each sentence, and the position of its first id.

    Allocating an array as long as the corpus takes noticeable time. So only two are allocated, and
    they are compared in parts.
    """
    header = stream.read(_HEADER.size)
    held = os.fstat(stream.fileno()).st_size
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise CorpusError(
            f"{path} is not the index of a memory-mapped data-bin: it begins with "
            f"{header[:9]!r}, not with {_MAGIC!r}. Prepare the corpus again (with "
            "fairseq-preprocess: --dataset-impl mmap)."
        )
    _, version, code, length = _HEADER.unpack(header)
    if version != _VERSION or code not in _DTYPES:
        raise CorpusError(
            f"{path} has version {version} and type code {code}, but only version {_VERSION} and "
            f"the integer types {sorted(_DTYPES)} can be read. Prepare the corpus again."
        )
    needed = _HEADER.size + 12 * length
    if held != needed:
        raise CorpusError(
            f"{path} holds {held:,} bytes, but the index of {length:,} sentences has "
            f"{needed:,}: it is truncated or damaged. Prepare the corpus again."
        )
    dtype = np.dtype(_DTYPES[code])
    sizes = np.fromfile(stream, "<i4", length).astype(np.int32, copy=False)
    starts = np.fromfile(stream, "<i8", length).astype(np.int64, copy=False)
    if len(starts) < length:  # fromfile ignores read errors
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    if not _one_after_another(starts, sizes, dtype.itemsize):
        raise CorpusError(
            f"{path} is damaged: the positions of its sentences do not match their sizes. "
            "Prepare the corpus again."
        )
    starts //= dtype.itemsize
    return dtype, sizes, starts


def _one_after_another(
    starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int32], itemsize: int
) -> bool:
    end = 0
    for i in range(0, len(sizes), _PART):
        steps = sizes[i : i + _PART] * np.int64(itemsize)
        ends = end + np.cumsum(steps)
        if (steps < 0).any() or (starts[i : i + _PART] != ends - steps).any():
            return False
        end = ends[-1]
    return True


class JoinedDataset:
    """The sentences of several data-bins, one after another.

    Args:
        parts: The data-bins, at least one.
    """

    def __init__(self, parts: Sequence[IndexedDataset]) -> None:
        self.parts = parts
        self.prefix = " + ".join(str(part.prefix) for part in parts)
        self.sizes = np.concatenate([part.sizes for part in parts])
        """Number of tokens in each sentence, ``</s>`` included. *Shape:* (sentences,)."""
        self._ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, index: int) -> Tensor:
        """Return the ids of one sentence, int64. *Shape:* (size,)."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.prefix} has {len(self)} sentences, but the index is {index}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - int(self._ends[part]) + len(self.parts[part])]

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of the checksums of all parts, in order."""
        return zlib.crc32(np.array([part.checksum for part in self.parts], "<u4").tobytes())


class IndexedDatasetBuilder:
    """Writes a data-bin in a ``with`` statement.

    The two files appear, complete, at the end of the statement. After an exception neither does.

    Args:
        prefix: The path without ``.bin`` and ``.idx``.
        vocabulary_size: Number of ids in the vocabulary. Below 65,500 an id takes two bytes, else
            four, as in fairseq's ``best_fitting_int_dtype``.

    Examples:
        >>> with IndexedDatasetBuilder("train.en-de.en", vocabulary_size=100) as builder:
        ...     builder.extend(np.array([4, 5, 2, 6, 2]), sizes=np.array([3, 2]))
        >>> IndexedDataset("train.en-de.en")[1]
        tensor([6, 2])
    """

    def __init__(self, prefix: str | PathLike[str], vocabulary_size: int) -> None:
        self._data, self._index = _paths(prefix)
        self._vocabulary_size = vocabulary_size
        self._dtype = "<u2" if vocabulary_size < 65_500 else "<u4"
        # An array takes less memory than a list: a corpus may have tens of millions of sentences.
        self._sizes = array("i")
        self._files = ExitStack()

    def __enter__(self) -> Self:
        # The file opened last appears first, so an index never exists without its data.
        self._index_stream = self._files.enter_context(whole_file(self._index))
        self._stream = self._files.enter_context(whole_file(self._data))
        return self

    def extend(self, ids: npt.NDArray[Any], sizes: npt.NDArray[np.integer[Any]]) -> None:
        """Append sentences.

        Args:
            ids: Ids of all sentences, concatenated. *Shape:* (tokens,).
            sizes: Number of ids in each sentence. *Shape:* (sentences,).

        Raises:
            ValueError: An id is outside the vocabulary, or the sizes do not add up to the ids.
        """
        if ids.size and not 0 <= ids.min() <= ids.max() < self._vocabulary_size:
            raise ValueError(
                f"`ids` must be in [0, {self._vocabulary_size}), but after {len(self._sizes)} "
                f"sentences there are ids from {ids.min()} to {ids.max()}."
            )
        if len(ids) != sizes.sum():
            raise ValueError(
                f"`sizes` must add up to the {len(ids)} ids given, but add up to {sizes.sum()}."
            )
        self._stream.write(ids.astype(self._dtype).tobytes())
        self._sizes.frombytes(sizes.astype(np.int32).tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._files:
            if error is not None:
                raise error
            self._write_index()

    def _write_index(self) -> None:
        sizes = np.frombuffer(self._sizes, np.int32)
        starts = np.zeros(len(sizes), "<i8")
        np.cumsum(sizes[:-1], out=starts[1:])
        starts *= np.dtype(self._dtype).itemsize
        with naming(self._index):
            self._index_stream.write(
                _HEADER.pack(_MAGIC, _VERSION, _CODES[self._dtype], len(sizes))
            )
            self._index_stream.write(sizes.astype("<i4").data)
            self._index_stream.write(starts.data)
            self._index_stream.flush()
