"""Registry of adapters: functions that find the residual sites of a family of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from admin_init.sites import ResidualSite

Adapter = Callable[[nn.Module, str, nn.Module], list[ResidualSite]]
"""Takes a layer, its name in the model, and the model. Returns the sites of the layer in order of
execution, or raises an UnsupportedModelError."""


_ADAPTERS: dict[type[nn.Module] | str, Adapter] = {}
_UNSERVED: set[type[nn.Module] | str] = set()
_AdapterT = TypeVar("_AdapterT", bound=Adapter)


def register_adapter(
    layer_class: type[nn.Module] | str, *, served: bool = True
) -> Callable[[_AdapterT], _AdapterT]:
    """Register the function that finds the sites of ``layer_class`` and of its subclasses.

    Args:
        layer_class: The class, or its name ``module.Class``, which avoids importing its library.
        served: Whether the class has sites; False if the adapter only raises an error that says
            why Admin does not apply.

    Returns:
        A decorator.

    Raises:
        ValueError: The class already has an adapter.
    """

    def register(adapter: _AdapterT) -> _AdapterT:
        if layer_class in _ADAPTERS:
            raise ValueError(f"`{_class_name(layer_class)}` already has an adapter.")
        _ADAPTERS[layer_class] = adapter
        if not served:
            _UNSERVED.add(layer_class)
        return adapter

    return register


def adapter_of(layer: nn.Module) -> Adapter | None:
    """Return the adapter of the layer's class or of its nearest base class."""
    keys = (key for cls in type(layer).__mro__ for key in (cls, _class_name(cls)))
    return next((_ADAPTERS[key] for key in keys if key in _ADAPTERS), None)


def served_layers() -> list[str]:
    """Return the names of the layer classes that have sites."""
    served = _ADAPTERS.keys() - _UNSERVED
    return sorted({_class_name(layer_class).rpartition(".")[2] for layer_class in served})


def _class_name(layer_class: type | str) -> str:
    if isinstance(layer_class, str):
        return layer_class
    return f"{layer_class.__module__}.{layer_class.__qualname__}"
