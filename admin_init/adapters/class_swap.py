"""Exchange a layer's class, on the instance, for one that extends it with a mixin."""

from __future__ import annotations

from typing import Any

from torch import nn


class Extended:
    """A class made at run time from a mixin and a layer's own class; survives pickle, deepcopy."""

    plain_class: type[nn.Module]
    """The layer's own class."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = tuple(super().__reduce_ex__(protocol))[2:]
        return _new, (type(self).__mro__[1], self.plain_class), *state


def extend_(module: nn.Module, mixin: type[Extended]) -> None:
    """Let the methods of ``mixin`` come before those of the class of ``module``."""
    if not isinstance(module, mixin):
        module.__class__ = _extended(mixin, type(module))


def restore_(module: nn.Module) -> None:
    """Give ``module`` its own class back."""
    if isinstance(module, Extended):
        module.__class__ = module.plain_class  # type: ignore[assignment]


def own_class(module: nn.Module) -> type[Any]:
    """Return the class that ``module`` has of its own, extended or not."""
    return module.plain_class if isinstance(module, Extended) else type(module)


_EXTENDED: dict[tuple[type[Extended], type[nn.Module]], Any] = {}


def _extended(mixin: type[Extended], plain_class: type[nn.Module]) -> Any:
    key = mixin, plain_class
    if key not in _EXTENDED:
        name = f"Admin{plain_class.__name__}"
        _EXTENDED[key] = type(name, key, {"plain_class": plain_class})
    return _EXTENDED[key]


def _new(mixin: type[Extended], plain_class: type[nn.Module]) -> Any:
    cls = _extended(mixin, plain_class)
    return cls.__new__(cls)
