"""Registry of adapters: functions that find the residual sites of a family of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from admin_init.sites import ResidualSite

Adapter = Callable[[nn.Module, str, nn.Module], list[ResidualSite]]
"""Takes a layer, its name in the model, and the model. Returns the sites of the layer in order of
execution, or raises an UnsupportedModelError."""


_ADAPTERS: dict[type[nn.Module], Adapter] = {}
_AdapterT = TypeVar("_AdapterT", bound=Adapter)


def register_adapter(layer_class: type[nn.Module]) -> Callable[[_AdapterT], _AdapterT]:
    """Register the function that finds the sites of ``layer_class`` and of its subclasses.

    Returns:
        A decorator.

    Raises:
        ValueError: The class already has an adapter.
    """

    def register(adapter: _AdapterT) -> _AdapterT:
        if layer_class in _ADAPTERS:
            raise ValueError(f"`{layer_class.__qualname__}` already has an adapter.")
        _ADAPTERS[layer_class] = adapter
        return adapter

    return register


def adapter_of(layer: nn.Module) -> Adapter | None:
    """Return the adapter of the layer's class or of its nearest base class."""
    return next((_ADAPTERS[cls] for cls in type(layer).__mro__ if cls in _ADAPTERS), None)


def served_layers() -> list[str]:
    """Return the names of the layer classes that have sites."""
    return sorted({layer_class.__name__ for layer_class in _ADAPTERS})
