"""Run a model without leaving a trace in it."""

from __future__ import annotations

import copy
import io
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore, on exit, all that a forward pass changes except the parameters.

    Restores the buffers (running means), the attributes of the modules (their mode, counters, lists
    of outputs, torchmetrics states) with the containers and random generators in them, and the
    random states of torch, numpy and Python. An iterator among the attributes yields again what the
    pass took from it. State inside objects of the user's own classes is not restored.
    """
    undo: list[Callable[[], object]] = []
    seen: set[int] = set()
    for module in model.modules():
        _remember(vars(module), undo, seen)
    for module in model.modules():
        undo += _replay(vars(module))
    undo.append(partial(random.setstate, random.getstate()))
    undo.append(partial(np.random.set_state, np.random.get_state()))  # noqa: NPY002
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        try:
            yield
        finally:
            for step in undo:
                step()


class WrittenParameters:
    """Parameters that operations write in a pass, to be put back after it.

    Some training steps change parameters themselves: an average of the weights, a codebook.
    """

    def __init__(self, model: nn.Module) -> None:
        self._by_storage: dict[int, list[nn.Parameter]] = {}
        self._before: list[tuple[nn.Parameter, Tensor]] = []
        for parameter in model.parameters():
            if not is_lazy(parameter):
                self._by_storage.setdefault(storage_of(parameter), []).append(parameter)

    def before_write(self, tensors: Iterable[Tensor]) -> None:
        """Copy the parameters in the memory of ``tensors``, which the next operation writes."""
        for tensor in tensors:
            for parameter in self._by_storage.pop(storage_of(tensor), ()):
                self._before.append((parameter, parameter.detach().clone()))

    def put_back(self) -> None:
        """Give the parameters the values that they had."""
        for parameter, before in self._before:
            parameter.data.copy_(before)


def storage_of(tensor: Tensor) -> int:
    """Return a number for the memory of a tensor, which its views share."""
    if tensor.layout != torch.strided:
        return id(tensor)  # it has none
    address: int = tensor.untyped_storage()._cdata
    return address


_trials: list[nn.Module] = []


def in_trial_pass() -> bool:
    """Return whether a :func:`trial_pass` is running, which nothing else should measure."""
    return bool(_trials)


@contextmanager
def trial_pass(model: nn.Module) -> Iterator[None]:
    """Run a forward pass outside the training: no trace, no gradients, no compilation."""
    with ExitStack() as stack:
        stack.enter_context(preserved(model))
        _trials.append(model)
        stack.callback(_trials.pop)
        # Tensors that the pass creates, such as lazy parameters, must be usable afterwards.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


_RUN_EVERY_BRANCH_ONCE = {"chunk_size_feed_forward": 0, "layerdrop": 0.0}


@contextmanager
def whole_pass(model: nn.Module) -> Iterator[None]:
    """Let a forward pass run every branch once, and in the operations that its layers write.

    Hugging Face's models may drop layers at random, or run a feed-forward network in chunks.
    ``torch.nn``'s layers have fused kernels, which also change what comes out for padding.
    """
    with ExitStack() as stack:
        enabled = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, enabled)
        torch.backends.mha.set_fastpath_enabled(False)
        owners = [(module, vars(module).get("config")) for module in model.modules()]
        for owner in chain.from_iterable(owners):
            for name, value in _RUN_EVERY_BRANCH_ONCE.items():
                if name in getattr(owner, "__dict__", {}):
                    stack.callback(setattr, owner, name, getattr(owner, name))
                    setattr(owner, name, value)
        yield


def _remember(value: Any, undo: list[Callable[[], object]], seen: set[int]) -> None:
    """Append to ``undo`` a function that restores the present content of ``value``."""
    if isinstance(value, nn.Parameter) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        undo.append(partial(_copy_back, value, value.detach().clone()))
    elif isinstance(value, torch.Generator):
        undo.append(partial(value.set_state, value.get_state()))
    elif isinstance(value, random.Random):
        undo.append(partial(value.setstate, value.getstate()))
    elif isinstance(value, np.random.Generator):
        undo.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))
    elif isinstance(value, dict):
        undo.append(partial(_refill, value, dict(value), value.update))
        for item in value.values():
            _remember(item, undo, seen)
    elif isinstance(value, list | deque):
        undo.append(partial(_refill, value, list(value), value.extend))
        for item in value:
            _remember(item, undo, seen)
    elif isinstance(value, set):
        undo.append(partial(_refill, value, set(value), value.update))


class _Recorded(Iterator[Any]):
    """An iterator whose items are kept."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator
        self.items: list[Any] = []

    def __next__(self) -> Any:
        item = next(self.iterator)
        self.items.append(item)
        return copy_of(item)


def _replay(attributes: dict[str, Any]) -> Iterator[Callable[[], object]]:
    """Record what is taken from iterators; yield functions that let them yield it again."""
    for name, value in list(attributes.items()):
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            attributes[name] = recorded = _Recorded(value)
            yield partial(_chain, attributes, name, recorded)


def _chain(attributes: dict[str, Any], name: str, recorded: _Recorded) -> None:
    if recorded.items:
        attributes[name] = chain(recorded.items, recorded.iterator)


def copy_of(item: Any) -> Any:
    """Copy a batch, which a pass may change in place; its tensors alone, if it has no deepcopy."""
    try:
        return copy.deepcopy(item)
    except Exception:
        return apply_to_collection(item, Tensor, Tensor.clone, allow_frozen=True)


def _copy_back(tensor: Tensor, before: Tensor) -> None:
    if not torch.equal(tensor, before):
        tensor.detach().copy_(before)


def _refill(container: Any, before: Any, fill: Callable[[Any], object]) -> None:
    # By identity, because tensors have no plain equality. Unchanged containers are left alone,
    # because some refuse changes.
    if _identities(container) != _identities(before):
        container.clear()
        fill(before)


def _identities(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [(key, id(item)) for key, item in container.items()]
    return [id(item) for item in container]


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
