"""Lightning, in either distribution: base class, hooks of a module, steps without logging."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

if TYPE_CHECKING or not find_spec("lightning"):
    Callback = pl.Callback
else:
    import lightning.pytorch

    # A Trainer takes only callbacks of its own distribution; a subclass of both is taken by either.
    class Callback(pl.Callback, lightning.pytorch.Callback):
        """Base class for the Trainers of ``pytorch_lightning`` and of ``lightning.pytorch``."""


def is_overridden(pl_module: pl.LightningModule, hook: str) -> bool:
    """Say whether the module has a ``hook`` of its own."""
    base = importlib.import_module(lightning_package(pl_module)).LightningModule
    return getattr(type(pl_module), hook) is not getattr(base, hook)


def wrap_hook_once(
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


@contextmanager
def logging_disabled(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Switch off ``self.log`` and hand out dummy loggers, until exit."""
    dummy = importlib.import_module(f"{lightning_package(trainer)}.loggers.logger").DummyLogger
    loggers = trainer.loggers
    logging = {name: vars(pl_module).get(name) for name in ("log", "log_dict")}
    try:
        trainer.loggers = [dummy() for _ in loggers]
        for name in logging:
            setattr(pl_module, name, _ignore)
        yield
    finally:
        trainer.loggers = loggers
        for name, before in logging.items():
            if before is None:
                delattr(pl_module, name)
            else:
                setattr(pl_module, name, before)


def lightning_package(instance: object) -> str:
    """Return which Lightning an object's class derives from, as its package is imported."""
    modules = [cls.__module__ for cls in type(instance).__mro__]
    packages = ("pytorch_lightning", "lightning.pytorch")
    return next(p for p in packages if any(module.startswith(f"{p}.") for module in modules))


def clone_batch(batch: Any) -> Any:
    """Copy a batch, so that a step which changes it in place leaves the original alone."""
    return apply_to_collection(batch, Tensor, Tensor.clone)


def _ignore(*args: Any, **kwargs: Any) -> None:
    pass
