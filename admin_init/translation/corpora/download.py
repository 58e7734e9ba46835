"""Downloads from the network or a mirror: atomic, resumable and checked."""

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
"""File in a download folder with the SHA-256, size and origin of each downloaded file."""

_Record = TypedDict("_Record", {"sha256": str, "bytes": int, "from": str})


def fetch(
    url: str,
    folder: str | PathLike[str],
    *,
    name: str | None = None,
    mirror: str | None = None,
    checksum: str | None = None,
) -> Path:
    """Download a file into a folder, unless the folder already has it.

    An interrupted download leaves a ``.part`` file, which the next call continues. When a download
    is complete, its SHA-256 is stored in ``checksums.json``, and every later call checks the file
    against it. Only one process at a time downloads into a folder; the others wait.

    Args:
        url: Address of the file.
        folder: The folder of the file.
        name: Name of the file in the folder; by default the last part of its address.
        mirror: A folder or an address to fetch the file from, by name, instead of ``url``.
        checksum: The expected checksum: ``sha256:`` or ``md5:`` and the digest. If a mirror serves
            a file with another checksum, the file is used, with a warning.

    Returns:
        The path of the file.

    Raises:
        CorpusError: The file cannot be downloaded, or has the wrong checksum.
    """
    folder = Path(folder)
    path = folder / (name or urlsplit(url).path.rpartition("/")[2])
    # First without the lock, which a read-only folder cannot hold.
    if not _is_downloaded(path, checksum):
        origin = url if mirror is None else _mirror_url(mirror, path.name)
        try:
            with _locked(folder):
                if not _is_downloaded(path, checksum):
                    _download_checked(path, origin, checksum, trusted=mirror is not None)
        except (OSError, HTTPException) as error:
            raise CorpusError(
                f"{origin} cannot be downloaded ({error}). Try again, or put the file into "
                f"{folder} yourself."
            ) from error
    return path


def _is_downloaded(path: Path, checksum: str | None) -> bool:
    """Return whether a file exists; raise a CorpusError if its checksum is wrong."""
    records = _records(path.with_name(RECORDS))
    if not path.exists():
        return False
    if path.name in records:
        checksum = f"sha256:{records[path.name]['sha256']}"
    if problem := _mismatch(path, checksum):
        raise CorpusError(f"{path} {problem} Delete the file to download it again.")
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a download folder; wait for it if another process has it."""
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write(f"Waiting for another process, which is downloading into {folder}.\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download_checked(path: Path, origin: str, checksum: str | None, *, trusted: bool) -> None:
    """Download a file, check it, and store its checksum."""
    part = path.with_name(f"{path.name}.part")
    _download(origin, part)
    if problem := _mismatch(part, checksum):
        if not trusted:
            part.unlink()
            raise CorpusError(
                f"{origin} {problem} Try again. If the error stays, the published file has changed."
            )
        warnings.warn(f"{origin} {problem} The mirror is trusted: the file is used.", stacklevel=3)
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
        raise CorpusError(
            f"{path} is damaged. Delete it: files downloaded so far are then no longer checked."
        ) from error


def _mirror_url(mirror: str, name: str) -> str:
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
        # The server has nothing after the part: the part is complete, or belongs to another file.
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
        size = part.stat().st_size
        raise ConnectionError(f"the connection broke off after {size:,} of {total:,} bytes")


def _mismatch(path: Path, checksum: str | None) -> str | None:
    if checksum is None:
        return None
    algorithm, _, expected = checksum.partition(":")
    found = _digest(path, algorithm)
    if found == expected:
        return None
    return f"has the wrong checksum: its {algorithm.upper()} is {found}, but must be {expected}."


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
