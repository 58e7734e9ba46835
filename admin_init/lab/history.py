"""The course of a run, kept in its checkpoints so that a resumed run has all of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from admin_init.callbacks.base import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class History(Callback):
    """Records losses and gradient norms, and stops a run whose loss is not finite.

    Args:
        on_update: Called with the number of updates after each of them.
    """

    def __init__(self, on_update: Callable[[int], None] | None = None) -> None:
        self.on_update = on_update
        self.train_loss: list[float] = []
        """Training loss of every update."""
        self.grad_norm: list[float] = []
        """2-norm of all gradients together, at every update."""
        self.validation: list[dict[str, float]] = []
        """`step`, `nll` and `source_gain` of every validation."""
        self.seconds = 0.0
        """Time spent in training and validation."""
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the course so far."""
        return {
            "train_loss": self.train_loss,
            "grad_norm": self.grad_norm,
            "validation": self.validation,
            "seconds": self._elapsed(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the course of the run that is resumed."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Record the gradient norm."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self.grad_norm.append(norm)
        pl_module.log("grad_norm", norm)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss, and stop where it is not finite."""
        loss = float(outputs["loss"])
        self.train_loss.append(loss)
        if not math.isfinite(loss):
            trainer.should_stop = True
        if self.on_update is not None:
            self.on_update(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the validation."""
        metrics = trainer.callback_metrics
        self.validation.append(
            {
                "step": trainer.global_step,
                "nll": float(metrics["val_nll"]),
                "source_gain": float(metrics["val_source_gain"]),
            }
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.seconds = self._elapsed()
        self._started = 0.0

    def _elapsed(self) -> float:
        return self.seconds + (time.perf_counter() - self._started if self._started else 0.0)
