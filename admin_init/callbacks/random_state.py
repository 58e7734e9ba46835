"""RandomState: save and restore the random generators, so that a run resumes exactly."""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from admin_init.callbacks.lightning_compat import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class RandomState(Callback):
    """Saves the random generators in every checkpoint, and restores them when a run resumes.

    Lightning does not, so a resumed run draws different dropout masks. With this callback, and
    a data module that resumes its batches, every loss after resuming is the same, bit for bit. The
    generators are those of Python, NumPy, torch and the GPUs, on every rank. (With
    ``accumulate_grad_batches``, save checkpoints after an optimizer step: a checkpoint does not
    contain partly accumulated gradients.)

    Examples:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[RandomState()])
        >>> trainer.fit(model, data, ckpt_path="last.ckpt")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the generators of every rank, as tensors and primitives."""
        mine = _state()
        if not (dist.is_available() and dist.is_initialized()):
            return {"ranks": [mine]}
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the states until training starts."""
        self._restored = state_dict["ranks"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the generators.

        Setup code may draw random numbers, so this is not done earlier. Loading the first batch
        may draw some too, and in the interrupted run it came after the checkpoint, so it is not
        done later.
        """
        restored, self._restored = self._restored, []
        if not restored:
            return
        if len(restored) != trainer.world_size:
            warnings.warn(
                f"The checkpoint has the random state of {len(restored)} ranks, but there are "
                f"{trainer.world_size}. The random generators are not restored, so the run draws "
                "different dropout masks than an uninterrupted one.",
                stacklevel=2,
            )
            return
        _restore(restored[trainer.global_rank])


def _state() -> dict[str, Any]:
    # The global generator, because other code uses it.
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    # torch.load(weights_only=True) refuses arrays.
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if started else [],
    }


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
