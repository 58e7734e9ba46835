"""What a power cut leaves: of files and folders only what was forced to the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock


class Disk:
    """A folder whose power is cut after every step that matters for what is left of it.

    Args:
        root: The folder; all that it holds by now is on the disk.
        name: What is looked at in it, a file or a folder.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        for path in (root, *root.rglob("*")):
            self._force(path)
        self.moments: list[Any] = []
        """What was left of it at each moment: bytes, or a mapping of a folder's entries."""

    def watch(self, write: Callable[[], object]) -> None:
        """Let ``write`` run, and note what a power cut would have left meanwhile."""
        fsync, replace = os.fsync, os.replace

        def noted_fsync(descriptor: int) -> None:
            fsync(descriptor)
            self._force(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            self.moments.append(self.left)

        def noted_replace(source: Any, destination: Any) -> None:
            path = Path(source)
            if path.is_file():
                # The disk may have the new name at once, and whatever it has by now under it.
                there = self._contents.get(path.stat().st_ino)
                assert there == path.read_bytes(), f"{path} is moved before it is on the disk"
            replace(source, destination)
            self.moments.append(self.left)

        with (
            mock.patch.object(os, "fsync", noted_fsync),
            mock.patch.object(os, "replace", noted_replace),
        ):
            write()
        self.moments.append(self.left)

    @property
    def left(self) -> Any:
        """What a power cut leaves of it now; None where nothing is left."""
        return self._of(self._entries[self._root.stat().st_ino].get(self._name))

    def _of(self, inode: int | None) -> Any:
        if inode in self._entries:
            return {name: self._of(found) for name, found in self._entries[inode].items()}
        return None if inode is None else self._contents.get(inode)

    def _force(self, path: Path) -> None:
        inode = path.stat().st_ino
        self._contents.pop(inode, None)
        self._entries.pop(inode, None)
        if path.is_dir():
            self._entries[inode] = {entry.name: entry.lstat().st_ino for entry in path.iterdir()}
        else:
            self._contents[inode] = path.read_bytes()
