"""Checkpoint plugin that writes atomically and runs no code when it reads."""

from __future__ import annotations

import os
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO
from typing_extensions import override

from admin_init._utils.checkpoints import load, write_checkpoint


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file in its folder, and then renames the file.

    Lightning's own plugin writes to the system's temporary folder. If that is on another disk, the
    move is a copy: when the run is killed meanwhile, or the disk is full, half a checkpoint
    replaces the last good one.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from admin_init import WholeCheckpointIO
        >>> trainer = pl.Trainer(plugins=[WholeCheckpointIO()])
    """

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint atomically; to a remote path, write it as Lightning does."""
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
        """Read a checkpoint to the CPU without running any code that it contains.

        Raises:
            AdminInitError: The file is damaged, or holds more than tensors and plain values.
        """
        if _is_remote(path):
            return super().load_checkpoint(str(path), map_location, weights_only=True)
        content: dict[str, Any] = load(path)
        return content


def _is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)
