"""Files that are written whole, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, and move it there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a file of `tempfile`: those only their owner can read, even after a rename.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path), part.open("wb") as file:
            write(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an error of the system that names no file, such as a full disk, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write bytes, whole or not at all."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
