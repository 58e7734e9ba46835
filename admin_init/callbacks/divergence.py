"""DivergenceCheck: stop a diverged training run with an error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from admin_init._utils.checkpoints import weights_with_nan
from admin_init.callbacks.lightning_compat import Callback, step_loss
from admin_init.errors import DivergedError

if TYPE_CHECKING:
    import pytorch_lightning as pl

_ADVICE = "Try a lower learning rate, a longer warm-up or gradient clipping"


class DivergenceCheck(Callback):
    """Raises an error if weights become NaN, or if the run ends much worse than its best.

    Weights that are NaN never recover, so training stops with a :class:`DivergedError` before such
    weights are saved: all checkpoints are from before. A non-finite loss alone is no reason to
    stop, because a gradient scaler skips such an update. It is one if the validation metric is not
    finite either.

    A finished run is judged by its last validation: if the metric is not finite, or more than
    ``margin`` above its best value, a :class:`DivergedError` is raised after all checkpoints have
    been written. The run may have diverged or overfitted; the best checkpoint is usable in both
    cases.

    A single process on a CPU reads the loss after every batch. On other devices, and with several
    processes (which must agree), the loss is read only every ``log_every_n_steps`` updates, when
    Lightning reads it too, to avoid more synchronizations with the device. The weights are checked
    if the loss is not finite, and before they are saved.

    Args:
        margin: Maximum increase of ``monitor`` from its best to its last value, in the unit of
            ``monitor``. The default of 0.5 nats per token is that of ``admin-init compare``.
        monitor: A validation metric for which lower is better. If validation does not log it, only
            the loss and the weights are checked.

    Raises:
        ValueError: ``margin`` is not positive.
        DivergedError: During training or when it ends, on every rank.

    Examples:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[DivergenceCheck(margin=1.0)])
        >>> trainer.fit(model, data)  # doctest: +SKIP
    """

    def __init__(self, margin: float = 0.5, *, monitor: str = "val_nll") -> None:
        if not margin > 0:
            raise ValueError(f"`margin` must be positive, but is {margin}.")
        self.margin = margin
        self.monitor = monitor
        self.best: tuple[float, int] | None = None
        """The lowest validation metric and its step."""
        self._final: tuple[float, int] | None = None
        self._finite: tuple[float, int] | None = None
        self._loss: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state; a resumed run then loads its own."""
        if stage == "fit":
            self.best = self._final = self._finite = self._loss = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the loss, unless reading it would cost a synchronization with the device."""
        self._loss = step_loss(trainer, pl_module, outputs)
        alone_on_cpu = trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"
        if alone_on_cpu or trainer.global_step % (trainer.log_every_n_steps or 50) == 0:  # type: ignore[attr-defined]
            loss = self._read_loss(trainer)
            if _any_rank(trainer, not math.isfinite(loss)):
                self._check_weights(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the validation metric."""
        found = trainer.callback_metrics.get(self.monitor)
        if found is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = float(found)
        self._final = value, trainer.global_step
        if _any_rank(trainer, not math.isfinite(value)):
            self._check_weights(trainer, pl_module)
            if _any_rank(trainer, not math.isfinite(self._read_loss(trainer))):
                raise self._error(trainer, f" and {self.monitor} {value}")
        elif self.best is None or value < self.best[0]:
            self.best = self._final

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop before weights that are NaN are saved."""
        self._check_weights(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the run by its last validation, after all files have been written."""
        if self._final is None:
            return
        value, step = self._final
        best = self._best(trainer)
        if not math.isfinite(value):
            raise DivergedError(
                f"the training diverged: after its last step, {step}, {self.monitor} is {value}; "
                f"{best}. {_ADVICE}."
            )
        if self.best is not None and value > self.best[0] + self.margin:
            raise DivergedError(
                f"the training ended with {self.monitor} = {value:.4f} after step {step}, "
                f"{value - self.best[0]:.4f} above its best, more than the margin of {self.margin}:"
                f" it diverged or overfitted; {best}. {_ADVICE}, or fewer steps."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation metric so far, as primitives."""
        return {"best": None if self.best is None else list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best validation metric of the resumed run."""
        best = state_dict["best"]
        self.best = None if best is None else (best[0], best[1])

    def _read_loss(self, trainer: pl.Trainer) -> float:
        loss = 0.0 if self._loss is None else float(self._loss)
        if self._loss is not None and math.isfinite(loss):
            self._finite = loss, trainer.global_step
        return loss

    def _check_weights(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        name = next(iter(weights_with_nan(dict(pl_module.named_parameters()))), None)
        if _any_rank(trainer, name is not None):
            # With sharded weights, the NaN may be on another rank.
            raise self._error(
                trainer, f", as is the weight `{name}`" if name else ", as are weights"
            )

    def _error(self, trainer: pl.Trainer, why: str) -> DivergedError:
        loss = math.nan if self._loss is None else float(self._loss)
        before = ""
        if self._finite is not None:
            before = " ({:.4f} after step {})".format(*self._finite)
        return DivergedError(
            f"the training diverged and was stopped: after step {trainer.global_step} the loss is "
            f"{loss}{before}{why}; {self._best(trainer)}. {_ADVICE}."
        )

    def _best(self, trainer: pl.Trainer) -> str:
        if self.best is None:
            return "no earlier validation was finite"
        found = "{} was best with {:.4f} after step {}".format(self.monitor, *self.best)
        kept = [
            str(path)
            for callback in trainer.checkpoint_callbacks
            if getattr(callback, "monitor", None) == self.monitor
            and (path := getattr(callback, "best_model_path", ""))
        ]
        return f"{found}, kept in {kept[0]}" if kept else found


def _any_rank(trainer: pl.Trainer, here: bool) -> bool:
    """Return whether ``here`` is true on any rank; a collective operation."""
    return bool(trainer.strategy.reduce_boolean_decision(here, all=False))
