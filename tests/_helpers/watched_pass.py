"""One forward pass, with what every module took and returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


class Place(NamedTuple):
    """An item of what a module takes or returns in one of its calls."""

    module: str
    turn: int
    side: str
    leaf: int


@dataclass
class Pass:
    """What the modules took and returned in one pass, in the order of time."""

    tensors: dict[Place, Tensor] = field(default_factory=dict)
    output: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)
    """Statistics that the model keeps."""


Change = Callable[[Place, Tensor], Tensor | None]
"""Called with every tensor that a module takes or returns; what it returns takes its place."""


def run(
    model: nn.Module, forward: Callable[[], Any], change: Change | None = None, *, keep: bool = True
) -> Pass:
    """Run a model, always with the same random numbers, and leave its buffers as they were.

    Args:
        model: The model.
        forward: Runs it.
        change: Changes tensors on their way.
        keep: Whether all tensors are kept.
    """
    seen = Pass()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with _watched(model, seen, change, keep=keep), torch.no_grad():
        torch.manual_seed(0)
        result = forward()
        seen.output = floats(result)
        seen.buffers = floats([buffer for buffer, _ in buffers])
        for buffer, before in buffers:
            buffer.copy_(before)
    return seen


@contextmanager
def _watched(model: nn.Module, seen: Pass, change: Change | None, *, keep: bool) -> Iterator[None]:
    turns: Counter[str] = Counter()
    running: dict[str, list[int]] = {}

    def look(name: str, turn: int, side: str, tree: Any) -> Any:
        leaves, structure = tree_flatten(tree)
        for leaf, tensor in enumerate(leaves):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                place = Place(name, turn, side, leaf)
                new = change(place, tensor) if change is not None else None
                if new is not None:
                    leaves[leaf] = new
                if keep:
                    seen.tensors[place] = leaves[leaf].detach().clone()
        return tree_unflatten(leaves, structure)

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            turns[name] += 1
            running.setdefault(name, []).append(turns[name])
            return look(name, turns[name], "in", (args, kwargs))

        return hook

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            return look(name, running[name].pop(), "out", output)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                handle = module.register_forward_pre_hook(before(name), with_kwargs=True)
                stack.callback(handle.remove)
                stack.callback(module.register_forward_hook(after(name)).remove)
        yield


def floats(tree: Any) -> list[Tensor]:
    """Return copies of the floating-point tensors in what a model returns."""
    leaves = tree_leaves(dict(tree) if hasattr(tree, "items") else tree)
    return [t.detach().clone() for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
