"""The folder in which a corpus is prepared, before it appears where it is wanted."""

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
    """Beside the destination, in a ``with`` statement that one process at a time may enter.

    What a run leaves behind that was killed or interrupted, the next one finds, provided that it
    has the same plan. What ends well, or in a :class:`CorpusError`, leaves nothing behind.

    Args:
        destination: The folder that is prepared.
        plan: All that decides what is in the workspace, as JSON.
    """

    def __init__(self, destination: Path, plan: dict[str, Any]) -> None:
        self.folder = destination.with_name(f".{destination.name}.scratch")
        self._destination = destination
        self._plan = json.loads(json.dumps(plan))
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
            raise CorpusError(f"{self.folder} is a link, but must be a folder. Remove it.")
        make_folder(self.folder)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise CorpusError(
                f"{self._destination} is being prepared by another process. Wait until that has "
                "ended, or choose another folder."
            ) from error
        if self._former.exists() and not self._destination.exists():
            # A run was killed between the two moves of `publish`.
            move_whole(self._former, self._destination)
        remove(self.result)
        if self._former_plan() != self._plan:
            (self.folder / _PLAN).unlink(missing_ok=True)
            for path in (self.shards, self.model):
                remove(path)
        for path in (self.shards, self.model, self.result):
            make_folder(path)
        write_json(self.folder / _PLAN, self._plan)
        return self

    def discard(self) -> None:
        """Remove what a run left behind that was killed just after :meth:`publish`."""
        if self.folder.is_symlink() or not self.folder.exists():
            return
        try:
            with self._lock.acquire(timeout=0):
                shutil.rmtree(self.folder, ignore_errors=True)
        except Timeout:
            pass  # that run is still at it

    def _former_plan(self) -> Any:
        try:
            return json.loads((self.folder / _PLAN).read_bytes())
        except (OSError, ValueError):
            return None

    def publish(self) -> None:
        """Move the result to where it is wanted, in place of what is there."""
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
