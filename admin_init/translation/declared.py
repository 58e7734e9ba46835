"""The model that a checkpoint declares, held against the weights that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_Model = TypeVar("_Model", bound=nn.Module)

_TABLES = 2**27
"""Values that a table of positions may have, which is in no checkpoint."""


def build_for(
    weights: Mapping[str, Tensor],
    build: Callable[[], _Model],
    load: Callable[[_Model, dict[str, Any]], object],
) -> _Model:
    """Build a model and load its weights; give up at the first parameter too many or too large.

    A parameter is registered before its memory is touched, so what is given up has cost nothing.

    Args:
        weights: A state dict that others may have written.
        build: Builds the model that is declared.
        load: Loads weights into it; may change the dictionary that it is given.

    Raises:
        ValueError: The weights are not those of such a model.
        RuntimeError: ``load`` says so, or there is no room for a parameter.
    """
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
        model = build()
    finally:
        handle.remove()
    load(model, dict(weights))
    return model


def check_positions(options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """See that the tables of positions that a model computes are of a reasonable size.

    Args:
        options: What declares the model; each option that ends in ``positions`` is looked at.
        weights: Its state dict, by which its width is known.

    Raises:
        ValueError: A table would have more than 2**27 values.
    """
    width = max((weight.shape[-1] for weight in weights.values() if weight.ndim), default=1)
    for name, value in options.items():
        if name.endswith("positions") and isinstance(value, int) and value * width > _TABLES:
            raise ValueError(f"it declares `{name}` = {value:,}, a table too large for {width:,}.")
