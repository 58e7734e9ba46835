"""Files that are written whole or not at all, and JSON files with a checksum."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

from admin_init._utils.typed_json import from_json
from admin_init.errors import AdminInitError

T = TypeVar("T")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path`` when the block ends without an error.

    If several processes write the same file, the last one wins, with its whole content. A link at
    ``path`` is replaced, not followed.
    """
    path = Path(path)
    make_folder(path.parent)
    # A random name, because a process in another container may have the same number.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with naming(path, part):
            # Exclusive creation follows no link. A file of `tempfile` would stay readable by its
            # owner only.
            with part.open("xb") as file:
                yield file
            move_whole(part, path)
    finally:
        part.unlink(missing_ok=True)


def move_whole(part: Path, path: Path) -> None:
    """Move a finished file or folder to ``path``, atomically even if the power is cut."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, safe against a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists; remove a link, but not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to make room for a new one; return the new path."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    return path.rename(next(aside for aside in names if not os.path.lexists(aside)))


def open_for_appending(path: Path) -> BinaryIO:
    """Open a file for appending, unless it is a link."""
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab"
    )


@contextmanager
def naming(path: str | os.PathLike[str], part: Path | None = None) -> Iterator[None]:
    """Make system errors name ``path`` if they name no file (disk full) or only ``part``."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == str(part):
            # A new error: setting the name in the old one would show a second name, None.
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file with the function ``write``, whole or not at all."""
    with whole_file(path) as file:
        write(file)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write bytes, whole or not at all."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1))


def write_checked(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Write a mapping as JSON, with a checksum for :func:`read_checked`; whole or not at all."""
    write_json(path, {**values, "checksum": _checksum(json.loads(json.dumps(values)))})


def read_json(path: str | os.PathLike[str], hint: Any = Any) -> Any:
    """Read the content of a JSON file as a value of the type ``hint``.

    Raises:
        AdminInitError: The file is damaged, or its value has another type.
    """
    return _of_file(path, lambda content: from_json(hint, parse_json(content)))


def read_checked(path: str | os.PathLike[str], build: Callable[[dict[str, Any]], T]) -> T:
    """Read a file of :func:`write_checked`, or of an earlier version without a checksum.

    Args:
        path: The file.
        build: Makes the returned value from the mapping in the file; raises an AdminInitError if
            it cannot.

    Raises:
        AdminInitError: The file is damaged or was edited, or ``build`` cannot use it.
    """
    return _of_file(path, lambda content: build(parse_checked(content)))


def parse_json(content: bytes) -> Any:
    """Parse a JSON text.

    Raises:
        AdminInitError: The text is not valid JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        fault = f"it is not valid JSON ({error})" if content.strip() else "it is empty"
        raise AdminInitError(f"{fault}.") from error


def parse_checked(content: bytes) -> dict[str, Any]:
    """Parse a JSON text with a mapping, and check and remove its checksum, if it has one.

    Raises:
        AdminInitError: The text is no mapping, or the checksum does not match.
    """
    values = parse_json(content)
    if not isinstance(values, dict):
        raise AdminInitError(f"it holds a {type(values).__name__}, but must hold a mapping.")
    checksum = values.pop("checksum", None)
    if checksum is not None and checksum != _checksum(values):
        raise AdminInitError(
            "it is damaged or was edited, because its `checksum` does not match. If you edited it, "
            "remove the `checksum`."
        )
    return values


def _of_file(path: str | os.PathLike[str], parse: Callable[[bytes], T]) -> T:
    try:
        return parse(Path(path).read_bytes())
    except AdminInitError as error:
        raise AdminInitError(f"{path} cannot be used: {error}") from error


def _checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode("utf-8"))


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written, but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)
