"""Texts, line by line, read as they are needed: files, and members of archives."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from admin_init.translation.errors import CorpusError


@dataclass(frozen=True)
class Text:
    """The sentences of a text in one language, anew whenever it is iterated.

    No more than a buffer of it is in memory. Iterating raises a :class:`CorpusError` where the file
    is missing, damaged or not UTF-8.
    """

    path: Path
    """A file, plain or ``.gz``, or an archive: ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip``."""
    member: str | None = None
    """Which file of the archive, itself plain or ``.gz``: a name or a shell pattern, of which the
    first match is read. None where ``path`` is no archive."""
    extract: Callable[[Iterable[str]], Iterator[str]] | None = None
    """Finds the sentences among the lines; None where every line is one."""

    def __iter__(self) -> Iterator[str]:
        return self._lines() if self.extract is None else self.extract(self._lines())

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def _lines(self) -> Iterator[str]:
        try:
            with self._open() as stream:
                for number, line in enumerate(stream, start=1):
                    try:
                        yield line.decode("utf-8").rstrip("\r\n")
                    except UnicodeDecodeError as error:
                        raise CorpusError(
                            f"{self}, line {number}: byte {error.start + 1} is not UTF-8 "
                            f"({error.reason}). Convert the file to UTF-8, or remove the line from "
                            "both files."
                        ) from error
        except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
            raise CorpusError(
                f"{self} cannot be read: it is missing, truncated or damaged ({error})."
            ) from error

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with _member(self.path, self.member) if self.member else self.path.open("rb") as stream:
            if (self.member or self.path.name).endswith(".gz"):
                with gzip.open(stream) as unzipped:
                    yield unzipped  # type: ignore[misc]
            else:
                yield stream


@contextmanager
def _member(path: Path, pattern: str) -> Iterator[IO[bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if fnmatchcase(name, pattern):
                    with archive.open(name) as stream:
                        yield stream
                    return
    else:
        # As a stream: to go back in a gzipped archive is to begin it again.
        with tarfile.open(path, "r|*", bufsize=1 << 16) as archive:
            for entry in archive:
                if entry.isfile() and fnmatchcase(entry.name.removeprefix("./"), pattern):
                    yield archive.extractfile(entry)  # type: ignore[misc]
                    return
    raise CorpusError(f"The archive {path} has no file {pattern}.")
