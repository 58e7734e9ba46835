"""Hooks of a LightningModule, wrapped on one instance."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from admin_init.callbacks.silence import distribution

if TYPE_CHECKING:
    import pytorch_lightning as pl


def is_overridden(pl_module: pl.LightningModule, hook: str) -> bool:
    """Say whether the module has a ``hook`` of its own."""
    base = importlib.import_module(distribution(pl_module)).LightningModule
    return getattr(type(pl_module), hook) is not getattr(base, hook)


def around(
    pl_module: pl.LightningModule,
    hook: str,
    wrapper: Callable[[pl.LightningModule, Callable[[], object]], object],
) -> None:
    """Wrap the next call of a hook of this one module; the wrapper is gone when it is called.

    No callback hook fires between ``configure_model`` and the optimizers, so the module's own
    hooks are where omega can be added in time.
    """
    original = getattr(pl_module, hook)
    before = vars(pl_module).get(hook)

    @functools.wraps(original)
    def once(*args: Any, **kwargs: Any) -> object:
        if before is None:
            delattr(pl_module, hook)
        else:
            setattr(pl_module, hook, before)
        return wrapper(pl_module, functools.partial(original, *args, **kwargs))

    setattr(pl_module, hook, once)


def step_loss(trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any) -> Tensor | None:
    """Return the loss of a training step as the module returned it, if it returned one."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        return None
    # Lightning divides it for the sum that it accumulates.
    parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
    return loss.detach() * parts
