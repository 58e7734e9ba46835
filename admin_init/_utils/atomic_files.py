"""Files that are written whole, or not at all, and JSON that says where it is damaged."""

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
    """Open a file that appears at ``path`` when the block ends, and only if it ends well.

    Others may write the same file meanwhile: one of them comes last, and what it wrote is there
    whole. A link at ``path`` is replaced, not followed.
    """
    path = Path(path)
    make_folder(path.parent)
    # Not the process's number, which another container may have too.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with naming(path, part):
            # Exclusive creation follows no link. Not a file of `tempfile`: those only their owner
            # can read, even after a rename.
            with part.open("xb") as file:
                yield file
            move_whole(part, path)
    finally:
        part.unlink(missing_ok=True)


def move_whole(part: Path, path: Path) -> None:
    """Move a finished file or folder to ``path``, where a power cut leaves all of it, or none."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, which a power cut does not take back."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one; of a link, not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that another can take its place, and return its new path."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    return path.rename(next(aside for aside in names if not os.path.lexists(aside)))


def open_for_appending(path: Path) -> BinaryIO:
    """Open a file to add to its end, unless it is a link."""
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab"
    )


@contextmanager
def naming(path: str | os.PathLike[str], part: Path | None = None) -> Iterator[None]:
    """Let an error of the system name ``path`` that names no file (a full disk), or ``part``."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == str(part):
            # Not set in it: a second name, once there, would be shown as None.
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a file that appears at ``path`` whole, or not at all."""
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
    """Return what a JSON file holds, as a value of the type ``hint``.

    Raises:
        AdminInitError: The file is damaged, or holds a value of another type.
    """
    return _of_file(path, lambda content: from_json(hint, parse_json(content)))


def read_checked(path: str | os.PathLike[str], build: Callable[[dict[str, Any]], T]) -> T:
    """Read what :func:`write_checked` wrote, or an older version without a checksum.

    Args:
        path: The file.
        build: Makes of its mapping what is returned; an AdminInitError says what it lacks.

    Raises:
        AdminInitError: The file is damaged or was edited, or ``build`` cannot use it.
    """
    return _of_file(path, lambda content: build(parse_checked(content)))


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        AdminInitError: It is none.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        fault = f"it is no JSON ({error})" if content.strip() else "it is empty"
        raise AdminInitError(f"{fault}.") from error


def parse_checked(content: bytes) -> dict[str, Any]:
    """Return the mapping of a JSON text, without the checksum that it may have.

    Raises:
        AdminInitError: It is none, or the checksum is that of another one.
    """
    values = parse_json(content)
    if not isinstance(values, dict):
        raise AdminInitError(f"it holds a {type(values).__name__}, but must hold a mapping.")
    checksum = values.pop("checksum", None)
    if checksum is not None and checksum != _checksum(values):
        raise AdminInitError(
            "it is damaged or was edited, as its `checksum` says; remove that if you edited it."
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
    """Let the disk have a file or the entries of a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder in which one may write, but not look
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that sync no folder
            raise
    finally:
        os.close(descriptor)
