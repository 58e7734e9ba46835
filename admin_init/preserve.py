"""Run a model without leaving a trace in it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back, on exit, what a forward pass changes beside the parameters.

    These are the buffers (running means), the plain attributes of the modules (their mode,
    counters, lists of outputs, the states of torchmetrics) and the random states of torch, numpy
    and Python.
    """
    attributes = [(vars(module), _snapshot(vars(module))) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for values, before in attributes:
                _restore(values, before)
            for buffer, value in buffers:
                buffer.detach().copy_(value)


def _snapshot(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    # Keys with an underscore hold torch's own registries (and Lightning's references); the states
    # of torchmetrics, and what users keep on their modules, have none.
    return {
        key: (value, _copy(value))
        for key, value in values.items()
        if not key.startswith("_") or key in _METRIC_STATES
    }


_METRIC_STATES = ("_computed", "_update_count", "_forward_cache", "_cache")


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, list | dict | set | deque) else value


def _restore(values: dict[str, Any], before: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in values if key not in before and not key.startswith("_")]:
        del values[key]
    for key, (value, copy) in before.items():
        if isinstance(value, Tensor):
            if not torch.equal(value, copy):
                value.detach().copy_(copy)
        elif isinstance(value, list | deque):
            value.clear()
            value.extend(copy)
        elif isinstance(value, dict | set):
            value.clear()
            value.update(copy)
        values[key] = value


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
