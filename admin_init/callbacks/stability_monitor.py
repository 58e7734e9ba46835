"""StabilityMonitor: log measures that warn of instability before the loss shows it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from admin_init._utils.atomic_files import open_for_appending, write_text
from admin_init.callbacks.lightning_compat import Callback, step_loss
from admin_init.callbacks.stability_step import MonitoredStep
from admin_init.measures.spikes import SpikeDetector

if TYPE_CHECKING:
    import pytorch_lightning as pl

SPIKES_FILE = "spikes.jsonl"


class StabilityMonitor(Callback):
    """Logs cheap stability measures, and records the batch of every loss spike.

    At every ``every_n_steps``-th optimizer step, including the first, it logs to every logger:

    * ``stability/grad_norm/<sub-layer>``: 2-norm of the gradients of the sub-layer's parameters,
      before clipping.
    * ``stability/update_ratio/<matrix>``: 2-norm of the update over that of the matrix. The
      largest and the median ratio of each stack are ``stability/update_ratio_max/<stack>`` and
      ``stability/update_ratio_median/<stack>``.
    * ``stability/branch_share/<sub-layer>``: standard deviation of the branch over that of the
      residual sum, in models of :mod:`admin_init.nn` and in others with AdminInit.
    * ``stability/attention_logit/<attention>``: largest attention logit, in attentions of
      :mod:`admin_init.nn` and ``nn.MultiheadAttention``.
    * ``stability/log_z``: mean log normalizer of the output distribution.

    Measures that do not apply to a model are left out. The last three need hooks, so they are also
    left out in a compiled model. The step is the number of the update, from 0. With gradient
    accumulation, the last forward pass before the update is measured. Under DDP, rank 0 logs its
    own values. Training stays the same, bit for bit.

    The training loss of every batch is checked for a spike: more than ``margin`` above the rolling
    median of the last ``window`` batches, or not finite after a finite loss. A spike is logged as
    ``stability/spike``, and written with its batch to ``spikes.jsonl`` beside the checkpoints (in
    the logger's folder if there are no checkpoints).

    Lightning's own ``SpikeDetection`` is not used, for three reasons: it stops training at a spike,
    its reference is the mean of 10 steps, which the spike itself shifts, and it identifies batches
    by an index that restarts in each epoch.

    Args:
        every_n_steps: Number of optimizer steps between measurements.
        output: Name of the module that outputs the logits, such as ``model.head``. Default: the
            first module named ``output_proj``, ``output_projection`` or ``lm_head``.
        margin: Minimum height of a loss spike above the rolling median, in nats.
        window: Number of batches in the rolling median.

    Raises:
        ValueError: ``every_n_steps`` or ``window`` is below 1, or ``margin`` is negative.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from admin_init import AdminInit, StabilityMonitor
        >>> trainer = pl.Trainer(callbacks=[AdminInit(), StabilityMonitor(every_n_steps=100)])
        >>> trainer.fit(model, data)  # doctest: +SKIP
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        *,
        output: str | None = None,
        margin: float = 0.1,
        window: int = 201,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"`every_n_steps` must be at least 1, but is {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.output = output
        self.margin = margin
        self.window = window
        self.latest: dict[str, float] = {}
        """The last logged values, by their names without ``stability/``."""
        self.spikes: list[dict[str, Any]] = []
        """The lines of ``spikes.jsonl``: `step`, `epoch`, `batch_idx`, `loss`, `median`, and the
        batch's attribute `index` or else its `fingerprint`. Non-finite numbers are strings."""
        self._detector = SpikeDetector(margin, window)
        self._interval = -1
        self._step = 0
        self._monitored: MonitoredStep | None = None
        self._file = Path(SPIKES_FILE)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state, unless the run resumes."""
        if stage == "fit" and trainer.global_step == 0:
            self.latest, self.spikes, self._interval = {}, [], -1
            self._detector = SpikeDetector(self.margin, self.window)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open ``spikes.jsonl``, or continue that of the resumed run."""
        # On all ranks, because reading `log_dir` is a collective operation.
        log_dir = trainer.log_dir or trainer.default_root_dir
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or log_dir
        self._file = Path(folder) / SPIKES_FILE
        # A resumed run drops the spikes after its checkpoint.
        if trainer.is_global_zero and (self.spikes or self._file.exists()):
            write_text(self._file, "".join(map(_line, self.spikes)))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the hooks if a measurement is due."""
        # The previous batch was skipped if a hook returned -1.
        self._stop()
        self._step = trainer.global_step
        if trainer.is_global_zero and self._step // self.every_n_steps > self._interval:
            self._monitored = MonitoredStep(pl_module, self.output)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Remove the hooks, so that recomputation in the backward pass is not measured again."""
        if self._monitored is not None:
            self._monitored.close()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients."""
        if self._monitored is not None:
            self._monitored.before_update(optimizer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the measures, and check for a spike."""
        if not trainer.is_global_zero:
            return
        monitored, self._monitored = self._monitored, None
        if monitored is not None:
            monitored.close()
            # Without an update, gradients are still accumulating, and the next batch tries again.
            if monitored.updated:
                self._interval = self._step // self.every_n_steps
                self.latest = monitored.rows()
                self._log(trainer, self.latest)
        tensor = step_loss(trainer, pl_module, outputs)
        if tensor is None:
            return
        loss = float(tensor)
        median = self._detector.median
        if self._detector.update(loss):
            spike = {"step": self._step, "epoch": trainer.current_epoch, "batch_idx": batch_idx}
            self._report(trainer, spike | _finite(loss=loss, median=median) | _identity(batch))
            self._log(trainer, {"spike": loss})

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks from the model."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks from the model."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the spikes so far and the window of losses, as primitives."""
        return {
            "interval": self._interval,
            "spikes": list(self.spikes),
            "detector": self._detector.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of the resumed run."""
        self._interval = state_dict["interval"]
        self.spikes = list(state_dict["spikes"])
        self._detector.load_state_dict(state_dict["detector"])

    def _stop(self) -> None:
        if self._monitored is not None:
            self._monitored.close()
            self._monitored = None

    def _log(self, trainer: pl.Trainer, rows: Mapping[str, float]) -> None:
        metrics = {f"stability/{name}": value for name, value in rows.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)

    def _report(self, trainer: pl.Trainer, spike: dict[str, Any]) -> None:
        self.spikes.append(spike)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with open_for_appending(self._file) as file:
            file.write(_line(spike).encode())


def _line(spike: Mapping[str, Any]) -> str:
    return json.dumps(spike) + "\n"


def _finite(**values: float) -> dict[str, float | str]:
    # JSON has no NaN and no infinity.
    return {name: x if math.isfinite(x) else str(x) for name, x in values.items()}


def _identity(batch: Any) -> dict[str, Any]:
    """Identify a batch: the indices of its examples in the split, or a hash of its tensors."""
    index = getattr(batch, "index", None)
    if isinstance(index, Tensor):
        return {"index": index.tolist()}
    digest = hashlib.sha256()
    apply_to_collection(
        batch,
        Tensor,
        lambda x: digest.update(x.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()),
    )
    return {"fingerprint": digest.hexdigest()[:16]}
