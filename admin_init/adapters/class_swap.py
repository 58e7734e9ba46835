"""Exchange a layer's class, on the instance, for one that extends it with a mixin."""

from __future__ import annotations

from typing import Any

from torch import nn


class ClassSwap:
    """A class made at run time from a mixin and a layer's own class; survives pickle, deepcopy."""

    plain_class: type[nn.Module]
    """The layer's own class."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = tuple(super().__reduce_ex__(protocol))[2:]
        return _new, (type(self).__mro__[1], self.plain_class), *state


def swap_class_(module: nn.Module, mixin: type[ClassSwap]) -> None:
    """Let the methods of ``mixin`` come before those of the class of ``module``."""
    if not isinstance(module, mixin):
        module.__class__ = _swapped_class(mixin, type(module))


def restore_class_(module: nn.Module) -> None:
    """Give ``module`` its own class back."""
    if isinstance(module, ClassSwap):
        module.__class__ = module.plain_class  # type: ignore[assignment]


def own_class(module: nn.Module) -> type[Any]:
    """Return the class that ``module`` has of its own, extended or not."""
    return module.plain_class if isinstance(module, ClassSwap) else type(module)


_SWAPPED: dict[tuple[type[ClassSwap], type[nn.Module]], Any] = {}


def _swapped_class(mixin: type[ClassSwap], plain_class: type[nn.Module]) -> Any:
    key = mixin, plain_class
    if key not in _SWAPPED:
        name = f"Admin{plain_class.__name__}"
        _SWAPPED[key] = type(name, key, {"plain_class": plain_class})
    return _SWAPPED[key]


def _new(mixin: type[ClassSwap], plain_class: type[nn.Module]) -> Any:
    cls = _swapped_class(mixin, plain_class)
    return cls.__new__(cls)
