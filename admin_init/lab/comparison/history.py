"""The course of a run. Checkpoints contain it, so that a resumed run has all of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from admin_init._utils.typed_json import from_json
from admin_init.callbacks.lightning_compat import Callback
from admin_init.measures.gradients import gradient_norms
from admin_init.measures.spikes import SpikeDetector

if TYPE_CHECKING:
    import pytorch_lightning as pl


@dataclass
class Validation:
    """One validation of a run."""

    step: int
    """Number of updates before it."""
    nll: float
    """NLL in nats per target token, without label smoothing."""
    source_gain: float
    """Increase of the NLL when the sources are shuffled."""


@dataclass
class LayerNorms:
    """2-norms of the gradients of each sub-layer, at one update."""

    step: int
    """Number of the update, from 1."""
    norms: dict[str, float]


@dataclass(kw_only=True)
class Course:
    """Course of a run: its losses, gradient norms and validations."""

    train_loss: list[float]
    """Training loss of every update."""
    grad_norm: list[float]
    """2-norm of all gradients together, at every update."""
    validation: list[Validation]
    seconds: float
    """Time spent in training and validation."""
    initial_nll: float | None = None
    """Validation NLL before the first update; None if it was not measured."""
    layer_grad_norm: list[LayerNorms] = field(default_factory=list)
    """Gradient norms of the sub-layers, one entry per validation."""
    spikes: list[int] = field(default_factory=list)
    """Numbers of the updates with a loss spike, computed at the end of the run."""


class History(Callback):
    """Record losses and gradient norms; end a run when its loss is not finite or its time is up.

    Lightning's Timer is not used, because its clock differs from the seconds in the result.

    Args:
        on_update: Called after each update, with the number of updates so far.
        max_seconds: Maximum seconds of training and validation, including those before an
            interruption.
        norms_every: Number of updates between records of the sub-layers' gradient norms.
        initial: Validate before the first update.
    """

    def __init__(
        self,
        on_update: Callable[[int], None] | None = None,
        *,
        max_seconds: float = math.inf,
        norms_every: int = 100,
        initial: bool = False,
    ) -> None:
        self.on_update = on_update
        self.max_seconds = max_seconds
        self.norms_every = norms_every
        self.initial = initial
        self.course = Course(train_loss=[], grad_norm=[], validation=[], seconds=0.0)
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the course so far."""
        state: dict[str, Any] = msgspec.to_builtins(replace(self.course, seconds=self._elapsed()))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the course of the resumed run.

        Raises:
            AdminInitError: A field is missing, unknown or of the wrong type.
        """
        self.course = from_json(Course, state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        # A run that was killed before its result was written may be resumed at its end.
        self._stop_if_over(trainer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Validate before the first update, if asked to, and record the gradient norm.

        Before the first step, AdminInit has not rescaled the model.
        """
        if self.initial and self.course.initial_nll is None and trainer.global_step == 0:
            with isolate_rng():
                self.course.initial_nll = _validation_nll(trainer, pl_module)
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self.course.grad_norm.append(norm)
        pl_module.log("grad_norm", norm)
        step = trainer.global_step + 1
        if step % self.norms_every == 0:
            norms = gradient_norms(pl_module.transformer.named_parameters())  # type: ignore[union-attr]
            self.course.layer_grad_norm.append(
                LayerNorms(step, {name: float(norm) for name, norm in norms.items()})
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss, and stop if it is not finite or the time is up."""
        self.course.train_loss.append(float(outputs["loss"]))
        self._stop_if_over(trainer)
        if self.on_update is not None:
            self.on_update(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the validation."""
        metrics = trainer.callback_metrics
        self.course.validation.append(
            Validation(
                trainer.global_step,
                float(metrics["val_nll"]),
                float(metrics["val_source_gain"]),
            )
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.course.seconds = self._elapsed()
        self._started = 0.0

    def _stop_if_over(self, trainer: pl.Trainer) -> None:
        losses = self.course.train_loss
        diverged = bool(losses) and not math.isfinite(losses[-1])
        if diverged or self._elapsed() >= self.max_seconds:
            trainer.should_stop = True

    def _elapsed(self) -> float:
        since = time.perf_counter() - self._started if self._started else 0.0
        return self.course.seconds + since


def loss_spikes(losses: list[float]) -> list[int]:
    """Return the numbers, from 1, of the updates with a loss spike; see SpikeDetector."""
    detector = SpikeDetector()
    return [update for update, loss in enumerate(losses, 1) if detector.update(loss)]


@torch.no_grad()
def _validation_nll(trainer: pl.Trainer, module: Any) -> float:
    """Compute the mean NLL over all target tokens, as validation logs it."""
    total = tokens = 0.0
    module.eval()
    for batch in trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
        batch = trainer.strategy.batch_to_device(batch)  # noqa: PLW2901
        count = int(batch.target.ne(module.config.padding_idx).sum())
        with trainer.precision_plugin.val_step_context():
            total += float(module.nll(batch)) * count
        tokens += count
    module.train()
    return total / tokens
