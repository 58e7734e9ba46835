"""What adapters look up around a layer and within it."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.errors import FoldError

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def enclosing(name: str, model: nn.Module, kind: type[_ModuleT]) -> _ModuleT | None:
    """Return the innermost module of class ``kind`` in ``model`` that holds the layer ``name``."""
    while name:
        name = name.rpartition(".")[0]
        around = model.get_submodule(name)
        if isinstance(around, kind):
            return around
    return None


def known(layer: nn.Module, name: str, kind: type[_ModuleT], site: str) -> _ModuleT:
    """Return the module ``name`` of ``layer``, which computes what a ``kind`` computes.

    Raises:
        FoldError: It is something else. A subclass, such as one with LoRA, may read its input
            through more weights than it shows.
    """
    module = layer.get_submodule(name)
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        raise FoldError(
            f"`{name}` in the layer of `{site}` is a {type(module).__name__}, which computes "
            f"something else than a {kind.__module__.partition('.')[0]} {kind.__name__}"
        )
    return module


class Overruled(RemovableHandle):
    """Keeps an attribute of a module at another value, until it is removed."""

    def __init__(self, module: nn.Module, name: str, value: Any) -> None:
        self.module = module
        self.name = name
        self.before = getattr(module, name)
        setattr(module, name, value)

    @override
    def remove(self) -> None:
        setattr(self.module, self.name, self.before)
