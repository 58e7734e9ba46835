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
    package = type(trainer).__module__.partition(".trainer")[0]
    dummy = importlib.import_module(f"{package}.loggers.logger").DummyLogger
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


def own_copy(batch: Any) -> Any:
    """Copy a batch, so that a step which changes it in place leaves the original alone."""
    return apply_to_collection(batch, Tensor, Tensor.clone)


def _ignore(*args: Any, **kwargs: Any) -> None:
    pass
