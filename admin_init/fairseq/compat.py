"""What lets fairseq 0.12.2 be imported and run with today's Python, PyTorch and hydra.

No installed file is changed. While fairseq is imported, ``dataclasses.dataclass`` is wrapped and
warnings are silenced; that is put back, and so is what the import does to the root logger and to
the start method of :mod:`multiprocessing`. What stays, in this process only:

* ``torch.load``, which reads weights only, also takes what fairseq's checkpoints hold beside them:
  numbers and arrays of numpy, and ``argparse.Namespace``;
* fairseq's encoder layers never take their fused inference path, which fails in every PyTorch
  since 2.0 ("Mask Type should be defined") and knows no omega;
* fairseq runs no string and no shell, and follows no path of a checkpoint's options, see
  :mod:`admin_init.fairseq.plain`;
* with :mod:`admin_init.fairseq.plugin`, the processes that fairseq spawns begin in that module.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import logging
import multiprocessing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from admin_init.errors import MissingExtraError
from admin_init.fairseq.plain import forbid_code

INSTALL = (
    "pip install 'admin-init[fairseq]', then pip install --no-deps fairseq==0.12.2 (its own "
    "requirements ask for versions of hydra and omegaconf that today's pip refuses)"
)

_UNHASHABLE_IN = ("fairseq", "hydra")


class FairseqNotInstalledError(MissingExtraError):
    """fairseq, or a library that it needs, is not installed."""


def import_fairseq() -> ModuleType:
    """Import fairseq, whatever Python from 3.10 on this is.

    Raises:
        FairseqNotInstalledError: fairseq or a library that it needs is missing; says how to get it.
    """
    if importlib.util.find_spec("fairseq") is None:
        raise FairseqNotInstalledError(f"fairseq is not installed. To get it: {INSTALL}.")
    with (
        _hashable_dataclasses(),
        _root_logger_kept(),
        _start_method_kept(),
        warnings.catch_warnings(),
    ):
        # hydra 1.3 and PyTorch warn of what fairseq asks of older ones.
        warnings.simplefilter("ignore")
        try:
            fairseq = importlib.import_module("fairseq")
            layers = importlib.import_module("fairseq.modules.transformer_layer")
            forbid_code()
        except ModuleNotFoundError as error:
            raise FairseqNotInstalledError(
                f"fairseq needs {error.name}, which is not installed. To get it: {INSTALL}."
            ) from error
    layers.TransformerEncoderLayerBase.can_use_fastpath = property(_false, _ignore)
    torch.serialization.add_safe_globals(_checkpoint_classes())
    return fairseq


def _false(layer: object) -> bool:
    return False


def _ignore(layer: object, value: object) -> None:
    pass


@contextmanager
def _hashable_dataclasses() -> Iterator[None]:
    """Let dataclasses be defaults of each other, as Python 3.10 did.

    From 3.11 on a default must be hashable, which an instance of a plain dataclass is not. Not
    cured by ``default_factory``: fairseq reads the default from the field.
    """
    original = dataclasses.dataclass

    def dataclass(cls: type[Any] | None = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda cls: dataclass(cls, **options)
        made: Any = original(cls, **options)
        if made.__hash__ is None and made.__module__.partition(".")[0] in _UNHASHABLE_IN:
            made.__hash__ = object.__hash__
        return made

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Put back what fairseq's import does to the root logger, and mute what it says meanwhile."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _start_method_kept() -> Iterator[None]:
    """Leave the start method open: fairseq makes a lock at import, which settles on the default."""
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


def _checkpoint_classes() -> list[Any]:
    """Return the classes in checkpoints of fairseq-train, beside tensors and primitives."""
    numbers = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.uint32)]
    # What rebuilds an array and a number lies in a private module, which numpy 2 has renamed.
    rebuild = [value.__reduce__()[0] for value in (np.zeros(1), np.float64())]
    return [argparse.Namespace, np.ndarray, np.dtype, *numbers, *rebuild]
