"""Temporary folder in which a corpus is prepared before it is moved to its destination."""

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from admin_init._utils.atomic_files import make_folder, move_whole, remove, write_json
from admin_init.errors import CorpusError

_PLAN = "plan.json"


class Workspace:
    """Hidden folder beside the destination; a ``with`` statement locks it for one process.

    A run that succeeds or raises a :class:`CorpusError` removes the folder. A killed or interrupted
    run leaves it, and the next run continues from it.

    Args:
        destination: The folder to prepare.
    """

    def __init__(self, destination: Path) -> None:
        self.folder = destination.with_name(f".{destination.name}.scratch")
        self._destination = destination
        self._lock = FileLock(self.folder / "lock")

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / "shards"

    @property
    def model(self) -> Path:
        """The folder of the subword model."""
        return self.folder / "model"

    @property
    def result(self) -> Path:
        """The folder that becomes the destination."""
        return self.folder / "result"

    def __enter__(self) -> Self:
        if self.folder.is_symlink():
            raise CorpusError(f"{self.folder} is a link, but must be a folder. Remove the link.")
        make_folder(self.folder)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise CorpusError(
                f"{self._destination} is being prepared by another process. Wait until that "
                "process has ended, or choose another folder."
            ) from error
        if self._former.exists() and not self._destination.exists():
            # A run was killed between the two moves of `publish`.
            move_whole(self._former, self._destination)
        remove(self.result)
        make_folder(self.result)
        return self

    @property
    def plan(self) -> dict[str, Any]:
        """The settings and inputs that decide the content; empty until all shards are written."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _PLAN).read_bytes())
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    @plan.setter
    def plan(self, plan: dict[str, Any]) -> None:
        write_json(self.folder / _PLAN, plan)

    def clear(self) -> None:
        """Remove the work of an earlier run."""
        (self.folder / _PLAN).unlink(missing_ok=True)
        for path in (self.shards, self.model):
            remove(path)
            make_folder(path)

    def discard(self) -> None:
        """Remove the folder that a run left if it was killed just after :meth:`publish`."""
        if self.folder.is_symlink() or not self.folder.exists():
            return
        try:
            with self._lock.acquire(timeout=0):
                shutil.rmtree(self.folder, ignore_errors=True)
        except Timeout:
            pass  # that run is still removing it

    def publish(self) -> None:
        """Move the result to the destination, and replace what is there."""
        remove(self._former)
        if self._destination.exists():
            move_whole(self._destination, self._former)
        move_whole(self.result, self._destination)

    @property
    def _former(self) -> Path:
        return self.folder / "former"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, CorpusError):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
