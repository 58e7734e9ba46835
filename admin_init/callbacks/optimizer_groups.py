"""Keep chosen parameters out of weight decay, whatever optimizer the user builds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


@contextmanager
def no_weight_decay(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within this context, optimizers get ``parameters`` in groups of their own, undecayed.

    The groups are split while the optimizer is built, because a learning-rate scheduler built on
    it takes note of the groups that it finds.
    """
    chosen = {id(parameter) for parameter in parameters}
    add_param_group = Optimizer.add_param_group

    def add(optimizer: Optimizer, group: dict[str, Any]) -> None:
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        # torch also takes (name, parameter) pairs.
        undecayed = [p for p in params if id(p[1] if isinstance(p, tuple) else p) in chosen]
        if not undecayed or not group.get("weight_decay", optimizer.defaults.get("weight_decay")):
            add_param_group(optimizer, {**group, "params": params})
            return
        decayed = [p for p in params if id(p[1] if isinstance(p, tuple) else p) not in chosen]
        if decayed:
            add_param_group(optimizer, {**group, "params": decayed})
        add_param_group(optimizer, {**group, "params": undecayed, "weight_decay": 0.0})

    Optimizer.add_param_group = add  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Optimizer.add_param_group = add_param_group  # type: ignore[method-assign]
