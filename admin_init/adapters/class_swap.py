"""Replace the class of a layer instance by a subclass with a mixin."""

from __future__ import annotations

from typing import Any

from torch import nn


class ClassSwap:
    """Base of mixins; the class made of a mixin and a layer's class can be pickled and copied."""

    plain_class: type[nn.Module]
    """The original class of the layer."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = tuple(super().__reduce_ex__(protocol))[2:]
        return _new, (type(self).__mro__[1], self.plain_class), *state


def swap_class_(module: nn.Module, mixin: type[ClassSwap]) -> None:
    """Make the methods of ``mixin`` override those of ``module``."""
    if not isinstance(module, mixin):
        module.__class__ = _swapped_class(mixin, type(module))


def restore_class_(module: nn.Module) -> None:
    """Give ``module`` its original class back."""
    if isinstance(module, ClassSwap):
        module.__class__ = module.plain_class  # type: ignore[assignment]


def own_class(module: nn.Module) -> type[Any]:
    """Return the original class of ``module``, swapped or not."""
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
