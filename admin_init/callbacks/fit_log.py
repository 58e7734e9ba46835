"""FitLog: training progress as lines for a log file."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from admin_init._utils.progress import EVERY, duration, log_line
from admin_init.callbacks.divergence import DivergenceCheck
from admin_init.callbacks.lightning_compat import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class FitLog(Callback):
    """Writes a line to standard error after every validation and at least every minute.

    The line shows what a progress bar would: the metrics logged with ``prog_bar=True``, and the
    remaining time. The progress bar is switched off.
    """

    def __init__(self) -> None:
        self._began = self._said = 0.0
        self._first_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Switch the progress bar off."""
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.disable()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = self._said = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a line if the last one is a minute old."""
        if time.monotonic() - self._said >= EVERY:
            self._say(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a line."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._say(trainer)

    def _say(self, trainer: pl.Trainer) -> None:
        self._said = time.monotonic()
        if not trainer.is_global_zero:
            return
        step, steps = trainer.global_step, trainer.estimated_stepping_batches
        parts = [f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items()]
        for check in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(check, DivergenceCheck) and check.best is not None:
                parts.append("best {} {:.4g} after step {:,}".format(check.monitor, *check.best))
        elapsed = self._said - self._began
        parts.append(f"{duration(elapsed)} elapsed")
        whole = f" of {steps:,.0f}" if math.isfinite(steps) else ""
        if whole and step > self._first_step:
            rest = elapsed / (step - self._first_step) * max(steps - step, 0)
            parts.append(f"about {duration(rest)} to go")
        log_line(f"step {step:,}{whole}, epoch {trainer.current_epoch}: {', '.join(parts)}")
