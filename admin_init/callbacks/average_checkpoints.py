"""AverageCheckpoints: average the last checkpoints, and keep the average if it validates better."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from admin_init._utils.atomic_files import write_json
from admin_init._utils.checkpoints import read_checkpoint, write_checkpoint
from admin_init._utils.weight_averaging import write_average
from admin_init.callbacks.lightning_compat import Callback, lightning_package
from admin_init.errors import AdminInitError

if TYPE_CHECKING:
    import pytorch_lightning as pl

AVERAGE = "average.ckpt"
CHOSEN = "chosen.ckpt"
CHOICE = "chosen.json"


class AverageCheckpoints(Callback):
    """Averages the last checkpoints, and compares the average with the best single checkpoint.

    After each validation (by default once per epoch) the weights are saved, and the last ``last``
    of these checkpoints are kept. When training ends, they are averaged (Vaswani et al. 2017,
    section 6.1), omegas included, into ``average.ckpt``. Validation compares the average with the
    best single checkpoint, and the better one becomes ``chosen.ckpt``, which you can score on a
    test set. ``chosen.json`` has the metric of both. All files are in the folder of the trainer's
    :class:`ModelCheckpoint`, which provides the best checkpoint. The model keeps its final weights.

    Checkpoints with a non-finite validation metric are neither averaged nor chosen. If no other
    checkpoint exists, no ``chosen.ckpt`` is written, and one of an earlier run is deleted.

    Args:
        last: Number of checkpoints to average. If fewer exist, all are averaged.
        monitor: The validation metric to compare by. A :class:`ModelCheckpoint` with the same
            ``monitor`` is required; its ``mode`` says whether lower or higher is better.

    Raises:
        ValueError: ``last`` is below 1.
        AdminInitError: In ``setup``, if the trainer has no such :class:`ModelCheckpoint`.

    Examples:
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.callbacks import ModelCheckpoint
        >>> best = ModelCheckpoint(monitor="val_nll", filename="best")
        >>> trainer = Trainer(callbacks=[best, AverageCheckpoints(last=10)])
        >>> trainer.fit(model, data)  # doctest: +SKIP
        >>> path = f"{best.dirpath}/chosen.ckpt"
        >>> trainer.test(model, data, ckpt_path=path)  # doctest: +SKIP
    """

    def __init__(self, last: int = 10, *, monitor: str = "val_nll") -> None:
        if last < 1:
            raise ValueError(f"`last` must be at least 1, but is {last}.")
        self.last = last
        self.monitor = monitor
        self._saved: list[str] = []
        self._lost = False  # whether a validation was not finite

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the trainer has the :class:`ModelCheckpoint`."""
        if stage == "fit":
            self._keeper(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the weights, and delete the oldest ones."""
        fast: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.state.fn != "fit" or trainer.sanity_checking or fast:
            return
        found = trainer.callback_metrics.get(self.monitor)
        lost = found is not None and not math.isfinite(found)
        if trainer.strategy.reduce_boolean_decision(lost, all=False):
            self._lost = True
            return
        path = Path(self._keeper(trainer).dirpath) / f"step_{trainer.global_step:07}.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        if trainer.is_global_zero and not self._saved:
            read_checkpoint(path)  # fail now, not at the end of training, if it is unreadable
        self._saved = [saved for saved in self._saved if saved != str(path)] + [str(path)]
        while len(self._saved) > self.last:
            old = self._saved.pop(0)
            if trainer.is_global_zero:
                Path(old).unlink(missing_ok=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Average the checkpoints, and choose between the average and the best."""
        members = self._members()
        if not members and not self._lost:
            return
        keeper = self._keeper(trainer)
        folder = Path(keeper.dirpath)
        if members and trainer.is_global_zero:
            write_average(members, folder / AVERAGE)
        trainer.strategy.barrier()
        candidates = {"best": Path(keeper.best_model_path), "average": folder / AVERAGE}
        with _validating(trainer, pl_module):
            values = {
                name: self._validate(trainer, pl_module, path)
                for name, path in candidates.items()
                if members and path.is_file()
            }
        figures = " and ".join(f"{value:.4f} for the {name}" for name, value in values.items())
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if not finite:
            if trainer.is_global_zero:
                for name in (CHOSEN, CHOICE):
                    (folder / name).unlink(missing_ok=True)
            rank_zero_warn(
                f"Validation chose no checkpoint: {self.monitor} is {figures or 'never finite'}. "
                f"There is no {folder / CHOSEN}."
            )
            return
        sign = 1 if keeper.mode == "min" else -1
        chosen = min(finite, key=lambda name: sign * finite[name])
        if trainer.is_global_zero:
            sources = {"best": [candidates["best"]], "average": members}
            if chosen == "average":
                write_checkpoint(read_checkpoint(folder / AVERAGE), folder / CHOSEN)
            else:
                write_average(sources[chosen], folder / CHOSEN)
            report = {
                name: {"checkpoints": [path.name for path in sources[name]], self.monitor: value}
                for name, value in values.items()
            }
            write_json(folder / CHOICE, {"chosen": chosen, "mode": keeper.mode, **report})
        rank_zero_info(
            f"Validation chose the {chosen}, {folder / CHOSEN}: {self.monitor} is {figures} "
            f"(average of {len(members)} checkpoints)."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the paths of the checkpoints to average."""
        return {"saved": self._saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the paths of the resumed run."""
        self._saved = state_dict["saved"]

    def _members(self) -> list[Path]:
        found = [Path(path) for path in self._saved if Path(path).is_file()]
        if len(found) < len(self._saved):
            rank_zero_warn(
                f"{len(self._saved) - len(found)} of the last {len(self._saved)} checkpoints are "
                "missing, so only the others are averaged."
            )
        return found

    def _keeper(self, trainer: pl.Trainer) -> Any:
        """Return the ModelCheckpoint with the same monitor."""
        for callback in trainer.checkpoint_callbacks:
            if getattr(callback, "monitor", None) == self.monitor:
                return callback
        raise AdminInitError(
            "AverageCheckpoints compares the average with the best checkpoint, but the trainer has "
            f"no ModelCheckpoint with `monitor={self.monitor!r}`. Add one to its callbacks."
        )

    def _validate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, path: Path) -> float:
        checkpoint = read_checkpoint(path)
        trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
        logged = {key: x for found in trainer.validate_loop.run() for key, x in found.items()}
        if self.monitor not in logged:
            raise AdminInitError(
                f"{path} cannot be compared: validation logs {', '.join(logged) or 'nothing'}, but "
                f"not `monitor` = {self.monitor!r}. Log it in `validation_step`."
            )
        return float(logged[self.monitor])


@contextmanager
def _validating(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let the trainer validate until exit, hidden from loggers and other callbacks."""
    dummy = importlib.import_module(f"{lightning_package(trainer)}.loggers.logger").DummyLogger
    loggers, metrics = trainer.loggers, dict(trainer.callback_metrics)
    weights = copy.deepcopy(pl_module.state_dict())
    function: Any = trainer.state.fn
    stage = trainer.state.stage
    try:
        trainer.loggers = [dummy() for _ in loggers]
        # In this state, other callbacks do not count the validation as one of the training.
        trainer.state.fn = type(function)("validate")
        trainer.validating = True
        trainer.validate_loop.verbose = False
        yield
    finally:
        trainer.validate_loop.teardown()
        trainer.state.fn, trainer.state.stage = function, stage
        trainer.loggers = loggers
        trainer.callback_metrics.update(metrics)
        pl_module.load_state_dict(weights, strict=pl_module.strict_loading)
