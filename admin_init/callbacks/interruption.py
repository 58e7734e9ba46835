"""SaveWhenInterrupted: on SIGINT or SIGTERM, save a checkpoint for an exact resume and stop."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from admin_init._utils.interruption import WORDS, end_at_once, on_signals
from admin_init.callbacks.lightning_compat import Callback
from admin_init.errors import AdminInitError

if TYPE_CHECKING:
    import pytorch_lightning as pl

INTERRUPTED_FILE = "interrupted.ckpt"


class InterruptedTrainingError(AdminInitError):
    """A signal stopped the training; a checkpoint to resume from has been written."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """128 plus the signal number, as in a shell."""


class SaveWhenInterrupted(Callback):
    """Saves a checkpoint on SIGINT or SIGTERM, from which the run resumes exactly.

    The checkpoint is saved after the current update. If that update is followed by a validation or
    the end of an epoch, the callback waits for them and for one more update, because Lightning
    would skip them when it resumes. A second signal stops the run at once. The checkpoint is
    ``interrupted.ckpt``, beside the other checkpoints; it is deleted when training finishes.

    This callback must come last, because the checkpoint stores the states of the other callbacks.

    Args:
        command: The command line of this training run, ``--ckpt_path`` included.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self._listening = ExitStack()
        self._signal: signal.Signals | None = None
        self._saved = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers."""

        def answer(number: signal.Signals) -> None:
            line = f"{_name(self.command)}: {WORDS[number]}"
            if self._signal is not None:
                launcher: Any = trainer.strategy.launcher
                if launcher is not None:
                    launcher.kill(signal.SIGKILL)
                end_at_once(number, f"{line} again. {self._advice(trainer)}")
            self._signal = number
            if trainer.is_global_zero:
                sys.stderr.write(f"{line}; a checkpoint will be written after this update.\n")

        self._signal, self._saved = None, False
        self._listening.enter_context(on_signals(answer))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the checkpoint is saved and no validation or end of an epoch followed.

        Raises:
            InterruptedTrainingError: The training stops.
        """
        if not self._saved:
            return
        number = self._signal or signal.SIGINT  # None if another rank got the signal
        if not trainer.is_global_zero:
            raise SystemExit(0)  # after any other exception, Lightning kills the other ranks
        text = f"{WORDS[number]} after update {trainer.global_step:,}. {self._advice(trainer)}"
        raise InterruptedTrainingError(text, 128 + number)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save a checkpoint if a signal arrived and no gradients are being accumulated."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self._signal is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(_file(trainer))
            self._saved = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue, because a run that resumes from the saved checkpoint skips this validation."""
        self._saved = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue, because a run that resumes from the saved checkpoint skips this epoch's end."""
        self._saved = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Delete the checkpoint and remove the signal handlers."""
        self._listening.close()
        if trainer.is_global_zero:
            _file(trainer).unlink(missing_ok=True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the signal handlers."""
        self._listening.close()

    def _advice(self, trainer: pl.Trainer) -> str:
        saved = _file(trainer) if self._saved else Path("FILE")
        what = "from there" if self._saved else "from a checkpoint"
        return f"To continue {what}: {resuming(self.command, saved)}"


def resuming(command: Sequence[str], checkpoint: Path) -> str:
    """Return the command line that resumes from ``checkpoint``."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word == "--ckpt_path":
            next(words, None)
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    return shlex.join([*kept, "--ckpt_path", str(checkpoint)])


def _name(command: Sequence[str]) -> str:
    return " ".join(command[:2])


def _file(trainer: pl.Trainer) -> Path:
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    path, here = Path(folder or trainer.default_root_dir) / INTERRUPTED_FILE, Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
