"""Run a training step that nobody sees."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

if TYPE_CHECKING:
    import pytorch_lightning as pl


@contextmanager
def silenced(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Switch off ``self.log`` and hand out dummy loggers, until exit."""
    dummy = importlib.import_module(f"{distribution(trainer)}.loggers.logger").DummyLogger
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


def distribution(instance: object) -> str:
    """Return which Lightning an object's class derives from, as its package is imported."""
    modules = [cls.__module__ for cls in type(instance).__mro__]
    packages = ("pytorch_lightning", "lightning.pytorch")
    return next(p for p in packages if any(module.startswith(f"{p}.") for module in modules))


def own_copy(batch: Any) -> Any:
    """Copy a batch, so that a step which changes it in place leaves the original alone."""
    return apply_to_collection(batch, Tensor, Tensor.clone)


def _ignore(*args: Any, **kwargs: Any) -> None:
    pass
