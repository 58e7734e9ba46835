"""Checks that the model that a checkpoint declares matches the checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_Model = TypeVar("_Model", bound=nn.Module)

_TABLES = 2**27
"""Maximum size of a table of positions, which is computed and so in no checkpoint."""


def build_for(
    weights: Mapping[str, Tensor],
    build: Callable[[], _Model],
    load: Callable[[_Model, dict[str, Any]], object],
) -> _Model:
    """Build a model and load its weights; stop at a parameter that the weights cannot fill.

    Memory is used only after a parameter is registered, so stopping there costs nothing.

    Args:
        weights: A state dict from an untrusted file.
        build: Builds the declared model.
        load: Loads weights into the model; may change the given dictionary.

    Returns:
        The model.

    Raises:
        ValueError: The model has more or larger parameters than the weights.
        RuntimeError: ``load`` fails, or there is too little memory for a parameter.
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
                "the declared model has more or larger weights than the checkpoint, which holds "
                f"{len(weights)} weights, the largest with {largest:,} values."
            )

    handle = register_module_parameter_registration_hook(check)
    try:
        model = build()
    finally:
        handle.remove()
    load(model, dict(weights))
    return model


def check_positions(options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Check the size of the tables of positions that a model would compute.

    Args:
        options: Options of the declared model; those that end in ``positions`` are checked.
        weights: State dict of the model; the largest width of a weight is the model's width.

    Raises:
        ValueError: A table would have more than 2**27 values.
    """
    width = max((weight.shape[-1] for weight in weights.values() if weight.ndim), default=1)
    for name, value in options.items():
        if name.endswith("positions") and isinstance(value, int) and value * width > _TABLES:
            raise ValueError(
                f"it declares `{name}` = {value:,}, but may have at most {_TABLES // width:,} "
                f"positions of width {width:,}."
            )
