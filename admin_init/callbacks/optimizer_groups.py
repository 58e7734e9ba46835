"""Weight decay that spares chosen parameters, in an optimizer that is built already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def spare_from_weight_decay(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Let the steps of ``optimizer`` decay all its parameters but ``parameters``.

    During a step these are in groups without weight decay, after all others. Outside of it the
    groups are as they were built: so are their indices, their schedulers, of which torch's take
    one group for each that there was when they were built, and their checkpoints.

    Args:
        optimizer: Its other options, such as a learning rate that changes, hold for all.
        parameters: Those of them that the optimizer does not have are ignored.
    """
    spared = {id(parameter) for parameter in parameters}
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = []
    appended: list[dict[str, Any]] = []

    def split(optimizer: Optimizer, *_: object) -> None:
        restore(optimizer)  # a step that failed did not
        for group in list(optimizer.param_groups):
            ours = [parameter for parameter in group["params"] if id(parameter) in spared]
            if not ours or not group.get("weight_decay"):
                continue
            changed.append((group, {name: group[name] for name in ("params", "weight_decay")}))
            group["params"] = [p for p in group["params"] if id(p) not in spared]
            appended.append(group | {"params": ours, "weight_decay": 0.0})
        optimizer.param_groups += appended

    def restore(optimizer: Optimizer, *_: object) -> None:
        if appended:
            del optimizer.param_groups[-len(appended) :]
        for group, before in changed:
            group.update(before)
        changed.clear()
        appended.clear()

    optimizer.register_step_pre_hook(split)
    optimizer.register_step_post_hook(restore)
