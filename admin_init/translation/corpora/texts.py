"""Texts that are read line by line: plain files, compressed files, archives, and their markup."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

from admin_init.errors import AdminInitError, CorpusError, import_extra


def _open_zst(stream: IO[bytes]) -> Any:
    # Part of Python from 3.14 on.
    name = "compression.zstd" if find_spec("compression") else "backports.zstd"
    return import_extra("wmt", name).open(stream)


COMPRESSED: dict[str, tuple[bytes, Callable[[IO[bytes]], Any]]] = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.open),
    ".xz": (b"\xfd7zXZ", lzma.open),
    ".zst": (b"\x28\xb5\x2f\xfd", _open_zst),
}
"""Magic number and reader of each compressed format, by file ending."""

_SMALL = 2**26
"""Bytes to which any file may unpack: small enough to be harmless at any compression ratio."""


@dataclass(frozen=True, kw_only=True)
class TextLimits:
    """Limits on the size of a text. Reading a larger text raises an error."""

    max_line_bytes: int = 2**20
    """Maximum number of bytes in a line."""
    max_expansion: int = 100
    """Largest ratio of the unpacked to the compressed size. It is not checked for the first 64 MiB.
    Natural text stays below 10."""

    def max_unpacked(self, size: int) -> int:
        """Return the largest unpacked size, in bytes, of a file of ``size`` bytes."""
        return max(_SMALL, size * self.max_expansion)


@dataclass(frozen=True)
class Text:
    """The sentences of a text in one language, which can be iterated several times.

    Only a buffer of the text is in memory. Iterating raises a :class:`CorpusError` if the file is
    missing, damaged, not UTF-8 or larger than its ``limits``.
    """

    path: Path
    """A text file, plain or as ``.gz``, ``.bz2``, ``.xz`` or ``.zst``; or an archive: ``.zip``, or
    ``.tar``, plain or compressed in one of these formats."""
    member: str | None = None
    """Name of a file in the archive, or a shell pattern whose first match is read. The file may be
    compressed too. None if ``path`` is not an archive."""
    extract: Callable[[Iterable[str]], Iterator[str]] | None = None
    """Extracts the sentences from the lines; None if every line is a sentence."""
    limits: TextLimits = field(default=TextLimits(), kw_only=True)
    """Limits on the size of the text."""

    def __iter__(self) -> Iterator[str]:
        return self._lines() if self.extract is None else self.extract(self._lines())

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def _lines(self) -> Iterator[str]:
        most = self.limits.max_line_bytes
        with ExitStack() as opened:
            try:
                stream = self._open(opened)
                # Plain iteration would read the whole file in search of the end of a line.
                for number, line in enumerate(iter(partial(stream.readline, most + 1), b""), 1):
                    if len(line) > most:
                        raise CorpusError(
                            f"{self}, line {number} has more than {most:,} bytes. Split the line, "
                            "or raise `max_line_bytes` of the corpus."
                        )
                    try:
                        yield line.decode("utf-8").rstrip("\r\n")
                    except UnicodeDecodeError as error:
                        raise CorpusError(
                            f"{self}, line {number}: byte {error.start + 1} is not UTF-8 "
                            f"({error.reason}). Convert the file to UTF-8, or remove the line from "
                            "both files."
                        ) from error
            except AdminInitError:
                raise
            except Exception as error:  # archive readers do not document what they raise
                raise CorpusError(
                    f"{self} cannot be read: it is missing, truncated, damaged, encrypted, or "
                    f"packed in an unknown format ({error}). Download the file again, or unpack it."
                ) from error

    def _open(self, opened: ExitStack) -> Any:
        stream: Any = opened.enter_context(self.path.open("rb"))
        most = self.limits.max_unpacked(os.fstat(stream.fileno()).st_size)

        def inflated(stream: Any, read: Callable[[IO[bytes]], Any]) -> Any:
            unpacked = _Bounded(opened.enter_context(read(stream)), most, str(self))
            return io.BufferedReader(unpacked, 2**16)

        if self.member is not None and self.path.suffix == ".zip":
            zipped = opened.enter_context(zipfile.ZipFile(stream))
            stream = inflated(zipped, partial(_open_zip_member, self.path, self.member))
        elif self.member is not None:
            start = stream.peek(8)
            for magic, read in COMPRESSED.values():
                if start.startswith(magic):
                    stream = inflated(stream, read)
            # As a stream: seeking back in a compressed archive would unpack it from the start.
            archive = opened.enter_context(tarfile.open(fileobj=stream, mode="r|"))  # noqa: SIM115
            stream = _open_tar_member(self.path, self.member, archive)
        suffix = Path(self.member or self.path).suffix
        return inflated(stream, COMPRESSED[suffix][1]) if suffix in COMPRESSED else stream


class _Bounded(io.RawIOBase):
    """Unpacked stream that raises an error beyond a number of bytes."""

    def __init__(self, unpacked: IO[bytes], most: int, text: str) -> None:
        self.unpacked = unpacked
        self.most = self.left = most
        self.text = text

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        found = self.unpacked.read(len(buffer))
        buffer[: len(found)] = found
        self.left -= len(found)
        if self.left < 0:
            raise CorpusError(
                f"{self.text} unpacks to more than {self.most:,} bytes, which is unusual for text: "
                "the file is damaged or a decompression bomb. If it is neither, raise "
                "`max_expansion` of the corpus."
            )
        return len(found)


def _open_zip_member(path: Path, pattern: str, archive: zipfile.ZipFile) -> IO[bytes]:
    for name in archive.namelist():
        if fnmatchcase(name, pattern):
            return archive.open(name)
    raise _no_member(path, pattern)


def _open_tar_member(path: Path, pattern: str, archive: tarfile.TarFile) -> IO[bytes]:
    for entry in archive:
        if entry.isfile() and fnmatchcase(entry.name.removeprefix("./"), pattern):
            return archive.extractfile(entry)  # type: ignore[return-value]
    raise _no_member(path, pattern)


def _no_member(path: Path, pattern: str) -> CorpusError:
    return CorpusError(f"The archive {path} has no file {pattern}.")


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Extract the sentences of a WMT ``.sgm`` or an IWSLT ``.xml`` file, as sacreBLEU does.

    These files are not valid XML: each ``<seg>`` has a line of its own, and ``&`` is not escaped.
    Source: ``sacrebleu/dataset/fake_sgml.py``, version 2.6.

    Examples:
        >>> list(segments(["<doc>", '<seg id="1"> R&D, since 1990 </seg>', "</doc>"]))
        ['R&D, since 1990']
    """
    for line in lines:
        if line.startswith("<seg "):
            # The same as `re.sub(r"<seg.*?>(.*)</seg>.*?", r"\1", line)`, but in linear time.
            start, end = line.find(">", len("<seg")) + 1, line.rfind("</seg>")
            found = 0 < start <= end
            text = line[start:end] + line[end + len("</seg>") :] if found else line
            yield " ".join(text.split())


def talks(lines: Iterable[str]) -> Iterator[str]:
    """Extract the sentences of IWSLT's ``train.tags``: talks, titles and descriptions.

    Source: the ``grep`` and ``sed`` commands of fairseq's ``prepare-iwslt14.sh``.
    """
    for line in lines:
        if not any(tag in line for tag in ("<url>", "<talkid>", "<keywords>")):
            yield re.sub("</?(title|description)>", "", line)


def column(lines: Iterable[str], index: int) -> Iterator[str]:
    """Extract a column of a table, counted from 0; the sentence of a shorter row is empty."""
    for line in lines:
        cells = line.split("\t")
        yield cells[index].strip() if index < len(cells) else ""
