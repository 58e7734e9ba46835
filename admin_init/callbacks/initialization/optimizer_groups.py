"""Exclude parameters from the weight decay of an existing optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

_WRAPPED = ("optim", "optimizer", "base_optimizer")
"""Attributes in which wrappers store the optimizer that updates the parameters."""


def spare_from_weight_decay(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Exclude ``parameters`` from the weight decay of ``optimizer``.

    During each update, they are in parameter groups of their own without weight decay, after all
    other groups. At all other times, and in a closure, the groups are unchanged, so that indices,
    schedulers and checkpoints stay valid. (Permanent new groups would break torch's schedulers,
    which expect the number of groups that they were created with.)

    Args:
        optimizer: Any optimizer, or a wrapper of one. A warning says if its step runs no hooks.
        parameters: The parameters to exclude. Parameters of other optimizers are ignored.
    """
    wrapped = (getattr(optimizer, name, None) for name in _WRAPPED)
    updating = next((inner for inner in wrapped if isinstance(inner, Optimizer)), optimizer)
    if not getattr(type(updating).step, "hooked", False):
        warnings.warn(
            f"{type(optimizer).__name__} runs no hooks around its step, so its weight decay also "
            "applies to omega. Build it from `admin_init.parameter_groups(model, weight_decay)`.",
            stacklevel=2,
        )
        return
    split = _Split({id(parameter) for parameter in parameters})
    updating.register_step_pre_hook(split.before_step)
    updating.register_step_post_hook(split.restore)
    updating.register_state_dict_pre_hook(split.restore)  # after a failed update


class _Split:
    """Splits the groups of an optimizer during its updates."""

    def __init__(self, spared: set[int]) -> None:
        self.spared = spared
        self.changed: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.appended: list[dict[str, Any]] = []

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Split the groups, except during a closure; ``args`` begin with the optimizer."""
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
        """Move the excluded parameters into groups without weight decay."""
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
        """Restore the original groups."""
        appended = set(map(id, self.appended))
        optimizer.param_groups[:] = [g for g in optimizer.param_groups if id(g) not in appended]
        for group, before in self.changed:
            group.update(before)
        self.changed.clear()
        self.appended.clear()
