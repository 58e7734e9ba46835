"""How a Trainer writes and reads its checkpoints: whole or not at all, and without running code."""

from __future__ import annotations

import os
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO
from typing_extensions import override

from admin_init._utils.checkpoints import load, write_checkpoint


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there.

    Lightning's own writes it in the system's temporary folder. Where that is on another disk, the
    move is a copy: a run that is killed meanwhile, or for which there is no space left, leaves half
    a checkpoint in the place of the last good one.

    Example::

        trainer = Trainer(plugins=[WholeCheckpointIO()])
    """

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint, whole or not at all; elsewhere than in a folder, as Lightning."""
        if _is_remote(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, str(path), storage_options)
        else:
            write_checkpoint(checkpoint, path)

    @override
    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint, on the CPU; code that it may hold does not run.

        Raises:
            AdminInitError: The file is damaged, or holds more than tensors and plain values.
        """
        if _is_remote(path):
            return super().load_checkpoint(str(path), map_location, weights_only=True)
        content: dict[str, Any] = load(path)
        return content


def _is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)
