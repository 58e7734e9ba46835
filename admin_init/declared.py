"""What a checkpoint declares its model to be, held against the weights that it has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_Model = TypeVar("_Model", bound=nn.Module)

_TABLES = 2**29
"""Bytes of what a model may hold beside its weights, such as tables of positions."""


def build_for(
    weights: Mapping[str, Any],
    build: Callable[[], _Model],
    load: Callable[[_Model, dict[str, Any]], object],
) -> _Model:
    """Build a model and load its weights, once these have been seen to be as many and as large.

    That is seen on the meta device, where a model takes no memory, and as soon as a parameter is
    one too many or too large.

    Args:
        weights: A state dict that others may have written.
        build: Builds the model that is declared.
        load: Loads weights into it; may change the dictionary that it is given.

    Raises:
        ValueError: The weights are not those of such a model.
        RuntimeError: ``load`` says so.
    """
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or weight.nbytes > weight.untyped_storage().nbytes():
            raise ValueError(f"`{name}` is no tensor, or larger than what the file has of it.")
    # An embedding that is tied to another is registered twice.
    most = 2 * len(weights) + 8
    largest = max((weight.numel() for weight in weights.values()), default=0)
    registered = 0

    def check(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal registered
        registered += 1
        if registered > most or (parameter is not None and parameter.numel() > largest):
            raise ValueError(
                f"the model that it declares has more or larger weights than the {len(weights)} "
                f"that it holds, the largest of {largest:,} values."
            )

    handle = register_module_parameter_registration_hook(check)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            planned = build()
            load(planned, dict(weights))
    finally:
        handle.remove()
    held = [value for module in planned.modules() for value in vars(module).values()]
    tables = [value for value in (*held, *planned.buffers()) if isinstance(value, Tensor)]
    if (size := sum(table.nbytes for table in tables)) > _TABLES:
        raise ValueError(f"the model that it declares has tables of {size:,} bytes.")
    model = build()
    load(model, dict(weights))
    return model
