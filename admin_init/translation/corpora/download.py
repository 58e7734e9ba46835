"""Files from the network, or from a mirror: whole or not at all, resumed, and checked."""

import hashlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from shutil import copyfileobj
from typing import TypedDict
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import wrap_file

from admin_init._utils.atomic_files import (
    make_folder,
    move_whole,
    open_for_appending,
    read_json,
    write_json,
)
from admin_init.errors import AdminInitError, CorpusError

RECORDS = "checksums.json"
"""What was downloaded into a folder: of each file its SHA-256, its size and where it came from."""

_Record = TypedDict("_Record", {"sha256": str, "bytes": int, "from": str})


def fetch(
    url: str,
    folder: str | PathLike[str],
    *,
    name: str | None = None,
    mirror: str | None = None,
    checksum: str | None = None,
) -> Path:
    """Find a file in a folder, or download it there.

    A download that is interrupted leaves a ``.part``, which the next one continues. The SHA-256 of
    a finished one is kept in ``checksums.json``, and holds from then on. Who comes while another
    downloads into the folder waits, and finds what that has left.

    Args:
        url: Where the file is published.
        folder: Where it lies, or is put.
        name: What it is called there; by default the last part of its address.
        mirror: A folder or an address that it is fetched from instead, by its name.
        checksum: What it is known to have: ``sha256:`` or ``md5:``, and the digest. A mirror that
            serves another file is trusted, with a warning.

    Returns:
        Its path.

    Raises:
        CorpusError: It cannot be downloaded, or is not the file that it should be.
    """
    folder = Path(folder)
    path = folder / (name or urlsplit(url).path.rpartition("/")[2])
    # At first without the lock: it cannot be taken in a folder that may not be written.
    if not _is_there(path, checksum):
        origin = url if mirror is None else _within(mirror, path.name)
        try:
            with _alone(folder):
                if not _is_there(path, checksum):
                    _add(path, origin, checksum, trusted=mirror is not None)
        except (OSError, HTTPException) as error:
            raise CorpusError(
                f"{origin} cannot be downloaded ({error}). Try again, or put the file into "
                f"{folder} yourself."
            ) from error
    return path


def _is_there(path: Path, checksum: str | None) -> bool:
    """Return whether a file is in its folder, after a check that it is the right one."""
    records = _records(path.with_name(RECORDS))
    if not path.exists():
        return False
    if path.name in records:
        checksum = f"sha256:{records[path.name]['sha256']}"
    if problem := _mismatch(path, checksum):
        raise CorpusError(f"{path} {problem} Delete the file, and it will be downloaded again.")
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else downloads into a folder, and let nobody begin meanwhile."""
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write(f"Waiting for another process that downloads into {folder}.\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _add(path: Path, origin: str, checksum: str | None, *, trusted: bool) -> None:
    """Download a file into its folder, and record it there."""
    part = path.with_name(f"{path.name}.part")
    _download(origin, part)
    if problem := _mismatch(part, checksum):
        if not trusted:
            part.unlink()
            raise CorpusError(f"{origin} {problem} Try again; if it stays, the file has changed.")
        warnings.warn(f"{origin} {problem} It is used all the same.", stacklevel=3)
    records = _records(path.with_name(RECORDS))
    records[path.name] = {
        "sha256": _digest(part, "sha256"),
        "bytes": part.stat().st_size,
        "from": origin,
    }
    write_json(path.with_name(RECORDS), records)
    move_whole(part, path)


def _records(path: Path) -> dict[str, _Record]:
    if not path.exists():
        return {}
    try:
        records: dict[str, _Record] = read_json(path, dict[str, _Record])
        return records
    except AdminInitError as error:
        raise CorpusError(f"{path} is damaged. Delete it, and nothing is checked by it.") from error


def _within(mirror: str, name: str) -> str:
    address = mirror if "://" in mirror else Path(mirror).expanduser().absolute().as_uri()
    return f"{address.rstrip('/')}/{name}"


def _download(url: str, part: Path) -> None:
    if part.is_symlink():
        part.unlink()
    begun = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urlopen(request, timeout=60)
    except HTTPError as error:
        if error.code != 416:
            raise
        # There is nothing after what was begun: it is whole, or of another file.
        part.unlink()
        response = urlopen(url, timeout=60)
    with response:
        begun = begun if response.status == 206 else 0
        length = response.headers["Content-Length"]
        total = begun + int(length) if length else None
        with (
            wrap_file(
                response, int(length or 0), description=part.stem, console=Console(stderr=True)
            ) as stream,
            open_for_appending(part) as file,
        ):
            file.truncate(begun)
            copyfileobj(stream, file)
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"it broke off after {part.stat().st_size:,} of {total:,} bytes")


def _mismatch(path: Path, checksum: str | None) -> str | None:
    if checksum is None:
        return None
    algorithm, _, expected = checksum.partition(":")
    found = _digest(path, algorithm)
    if found == expected:
        return None
    return f"has the wrong checksum: its {algorithm.upper()} is {found}, but should be {expected}."


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
