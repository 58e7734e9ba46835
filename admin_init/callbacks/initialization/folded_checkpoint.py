"""Write a folded checkpoint beside those of a trainer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from admin_init._utils.atomic_files import move_whole
from admin_init.callbacks.lightning_compat import logging_disabled, with_gradients_if_needed
from admin_init.folding import folded
from admin_init.sites import ResidualSite

if TYPE_CHECKING:
    import pytorch_lightning as pl

FOLDED_FILE = "folded.ckpt"


def write_folded_checkpoint(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    step: Callable[[], object],
    sites: Sequence[ResidualSite],
) -> None:
    """Write ``folded.ckpt``, if the trainer has a folder for checkpoints.

    Args:
        trainer: The trainer.
        pl_module: The trained module, which keeps its omegas.
        step: Makes one training step, on which the fold is checked.
        sites: The sites of the module.

    Raises:
        FoldError: Folding would change the outputs.
    """
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    if not folder:
        return
    path = Path(folder) / FOLDED_FILE
    # Unique to this run but equal on all ranks, which may write the file together.
    token = trainer.strategy.broadcast(secrets.token_hex(8))
    part = path.with_name(f".{FOLDED_FILE}.{token}.part")

    def run_with(gradients: AbstractContextManager[object]) -> object:
        # The fold is exact in the precision of the weights.
        exact = torch.autocast(pl_module.device.type, enabled=False)
        with trainer.precision_plugin.train_step_context(), exact, gradients:
            return step()

    def run() -> object:
        return with_gradients_if_needed(run_with)

    with logging_disabled(trainer, pl_module), folded(pl_module, run, sites=sites):
        trainer.save_checkpoint(part, weights_only=True)
    if trainer.is_global_zero:
        move_whole(part, path)
