"""Weight decay that spares chosen parameters, in an optimizer that is built already."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

_WRAPPED = ("optim", "optimizer", "base_optimizer")
"""Attributes by which wrappers call the optimizer whose step updates the parameters."""


def spare_from_weight_decay(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Let the updates of ``optimizer`` decay all its parameters but ``parameters``.

    While it updates them, these are in groups without weight decay, after all others. At any other
    time, in a closure too, the groups are as they were built, with their indices, schedulers and
    checkpoints. (A group appended for good would break the schedulers of torch, which expect as
    many groups as there were when they were built.)

    Args:
        optimizer: Any optimizer, or a wrapper of one. Warns if its step runs no hooks.
        parameters: The parameters that are spared; those of other optimizers are ignored.
    """
    wrapped = (getattr(optimizer, name, None) for name in _WRAPPED)
    updating = next((inner for inner in wrapped if isinstance(inner, Optimizer)), optimizer)
    if not getattr(type(updating).step, "hooked", False):
        warnings.warn(
            f"{type(optimizer).__name__} runs no hooks around its step, so its weight decay "
            "applies to omega too. Give it `admin_init.parameter_groups(model, weight_decay)`.",
            stacklevel=2,
        )
        return
    split = _Split({id(parameter) for parameter in parameters})
    updating.register_step_pre_hook(split.before_step)
    updating.register_step_post_hook(split.restore)
    updating.register_state_dict_pre_hook(split.restore)  # of an update that failed


class _Split:
    """The groups of an optimizer, split while it updates."""

    def __init__(self, spared: set[int]) -> None:
        self.spared = spared
        self.changed: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.appended: list[dict[str, Any]] = []

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Split the groups, but for the time of a closure; ``args`` begin with the optimizer."""
        self.split(optimizer)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            return args, kwargs

        def with_whole_groups() -> Any:
            self.restore(optimizer)
            loss = closure()
            self.split(optimizer)
            return loss

        if "closure" in kwargs:
            return args, kwargs | {"closure": with_whole_groups}
        return (args[0], with_whole_groups, *args[2:]), kwargs

    def split(self, optimizer: Optimizer) -> None:
        """Move what is spared into groups of its own."""
        self.restore(optimizer)
        for group in list(optimizer.param_groups):
            ours = [parameter for parameter in group["params"] if id(parameter) in self.spared]
            if not ours or not group.get("weight_decay"):
                continue
            self.changed.append((group, {name: group[name] for name in ("params", "weight_decay")}))
            if others := [p for p in group["params"] if id(p) not in self.spared]:
                group["params"] = others
                self.appended.append(group | {"params": ours, "weight_decay": 0.0})
            else:
                group["weight_decay"] = 0.0
        optimizer.param_groups += self.appended

    def restore(self, optimizer: Optimizer, *_: object) -> None:
        """Make the groups what they were."""
        appended = set(map(id, self.appended))
        optimizer.param_groups[:] = [g for g in optimizer.param_groups if id(g) not in appended]
        for group, before in self.changed:
            group.update(before)
        self.changed.clear()
        self.appended.clear()
