"""SaveWhenInterrupted: SIGINT and SIGTERM end a training where it can be taken up exactly."""

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
    """A signal has ended the training; a checkpoint to go on from is written."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """128 and the signal, as a shell says it."""


class SaveWhenInterrupted(Callback):
    """Answer SIGINT and SIGTERM with a checkpoint from which the run resumes bit by bit.

    Not where the signal arrives, but after the update that is under way. Where a validation or the
    end of an epoch follows on that update, they and one more update are waited for: a checkpoint
    from between them resumes without them. A second signal ends the run at once. What is written
    is ``interrupted.ckpt``, beside the other checkpoints; a training that ends removes it.

    It must come after all other callbacks, whose states the checkpoint keeps.

    Args:
        command: The command line whose training this is, ``--ckpt_path`` included.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self._listening = ExitStack()
        self._signal: signal.Signals | None = None
        self._saved = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to listen for signals, in place of Lightning, which waits for one at any moment."""

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
        """End the training, if nothing has come between the checkpoint and this batch.

        Raises:
            InterruptedTrainingError: It has ended.
        """
        if not self._saved:
            return
        number = self._signal or signal.SIGINT  # none where another rank got it
        if not trainer.is_global_zero:
            raise SystemExit(0)  # or Lightning would kill the others
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
        """Write a checkpoint, if a signal has come and no gradients are being accumulated."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self._signal is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(_file(trainer))
            self._saved = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on: what has been saved would be resumed without this validation."""
        self._saved = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on: what has been saved would be resumed without the end of this epoch."""
        self._saved = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the checkpoint, which nobody needs any more."""
        self._listening.close()
        if trainer.is_global_zero:
            _file(trainer).unlink(missing_ok=True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop listening."""
        self._listening.close()

    def _advice(self, trainer: pl.Trainer) -> str:
        saved = _file(trainer) if self._saved else Path("FILE")
        what = "from there" if self._saved else "from a checkpoint"
        return f"To go on {what}: {resuming(self.command, saved)}"


def resuming(command: Sequence[str], checkpoint: Path) -> str:
    """Return the command line with ``checkpoint`` as its ``--ckpt_path``."""
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
