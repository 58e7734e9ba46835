"""Import and run fairseq 0.12.2 with current versions of Python, PyTorch and hydra.

No installed file is changed. During the import, ``dataclasses.dataclass`` is wrapped and warnings
are silenced; afterwards these are restored, together with the root logger and the start method of
:mod:`multiprocessing`, which the import changes. In this process, the following changes stay:

* ``torch.load`` with ``weights_only`` also accepts the other contents of fairseq's checkpoints:
  numbers and arrays of numpy, and ``argparse.Namespace``;
* fairseq's encoder layers do not use their fused inference path, which fails in every PyTorch
  since 2.0 ("Mask Type should be defined") and ignores omega;
* fairseq evaluates no string, runs no shell, and opens no path from a checkpoint's options, see
  :mod:`admin_init.fairseq.plain`;
* with :mod:`admin_init.fairseq.plugin`, processes spawned by fairseq start in that module.
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
    """Import fairseq on Python 3.10 or later.

    Raises:
        FairseqNotInstalledError: fairseq or a library that it needs is not installed.
    """
    if importlib.util.find_spec("fairseq") is None:
        raise FairseqNotInstalledError(f"fairseq is not installed. To get it: {INSTALL}.")
    with (
        _hashable_dataclasses(),
        _root_logger_kept(),
        _start_method_kept(),
        warnings.catch_warnings(),
    ):
        # fairseq uses deprecated features of hydra and PyTorch.
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
    """Allow dataclass instances as defaults of dataclass fields, as in Python 3.10.

    Since Python 3.11, a default must be hashable, which an instance of a plain dataclass is not.
    ``default_factory`` is no solution, because fairseq reads the default from the field.
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
    """Restore the root logger on exit, and mute it until then."""
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
    """Restore the start method on exit: fairseq creates a lock at import, which fixes it."""
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


def _checkpoint_classes() -> list[Any]:
    """Return the classes in checkpoints of fairseq-train, except tensors and primitives."""
    numbers = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.uint32)]
    # numpy 2 renamed the private module of these functions.
    rebuild = [value.__reduce__()[0] for value in (np.zeros(1), np.float64())]
    return [argparse.Namespace, np.ndarray, np.dtype, *numbers, *rebuild]
