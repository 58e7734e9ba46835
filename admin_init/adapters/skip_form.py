"""The skip form ``omega * x + f(x)``, and helpers for the adapters that use it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.errors import FoldError
from admin_init.scaled_skip import ScaledSkip
from admin_init.sites import Recorder, ResidualSite


class WeightSlice(NamedTuple):
    """Rows of a weight of shape (out, D) that is applied to the sub-layer's input x."""

    weight: Tensor
    start: int | None = None
    stop: int | None = None


class SkipSite(ResidualSite):
    """A site whose omega is in a :class:`ScaledSkip` of the model."""

    @property
    @abstractmethod
    def skip(self) -> ScaledSkip | None:
        """The module that holds omega, or None if not installed."""

    @abstractmethod
    def readers(self) -> Iterator[WeightSlice]:
        """Yield all weights that are applied to x."""

    @abstractmethod
    def output(self) -> nn.Linear:
        """Return the linear layer at the end of the branch."""

    @property
    @override
    def holder(self) -> nn.Module | None:
        return self.skip

    @property
    @override
    def omega(self) -> nn.Parameter | None:
        return None if self.skip is None else self.skip.omega

    @override
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        def hook(
            module: nn.Module, args: tuple[Tensor, Tensor], kwargs: dict[str, Any]
        ) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
            shortcut, branch = args
            omega = recorder.omega(self)
            recorder.record(self, shortcut, branch)
            return args, {**kwargs, "omega": omega}

        if self.skip is None:
            raise RuntimeError(f"`{self.name}` must be installed before it can be observed.")
        return [self.skip.register_forward_pre_hook(hook, with_kwargs=True)]

    @override
    def fold_problem(self) -> str | None:
        if self.omega is None:
            return None
        if self.computed_fold_problem is not None and (self.omega != 1).any():
            return f"omega of `{self.name}` cannot be folded, because {self.computed_fold_problem}"
        if not torch.isfinite(self.omega).all() or (self.omega == 0).any():
            return f"omega of `{self.name}` has channels that are zero or not finite"
        if self.previous is None and ((self.omega != self.omega[0]).any() or self.omega[0] < 0):
            return (
                f"omega of `{self.name}` differs between channels or is negative, which cannot be "
                "folded in the first sub-layer of a stack: it has no layer norm before it"
            )
        return None

    @override
    def fold_targets(self) -> Iterable[Tensor]:
        if self.omega is None or (self.omega == 1).all():
            return []
        if self.previous is None:
            return [self.output().weight]
        return [self.previous.norm_weight, *(rows.weight for rows in self.readers())]

    @override
    def fold_factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the previous layer norm and the weights that read its output, with their factors.

        This fold is exact. The first site of a stack has no previous layer norm. Its omega is 1
        unless a closed form or the user changed it; the branch is then divided by it, which is
        equivalent up to the eps of the following layer norm.
        """
        if self.omega is None or (self.omega == 1).all():
            return
        omega = self.omega.detach().double()
        if self.previous is None:
            output = self.output()
            yield output.weight, 1 / omega[0]
            if output.bias is not None:
                yield output.bias, 1 / omega[0]
            return
        yield self.previous.norm_weight, omega
        bias = getattr(self.previous.norm, "bias", None)
        if isinstance(bias, Tensor):
            yield bias, omega
        for weight, start, stop in self.readers():
            yield weight[start:stop], 1 / omega


_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def nearest_parent(name: str, model: nn.Module, kind: type[_ModuleT]) -> _ModuleT | None:
    """Return the nearest module of class ``kind`` that contains the layer ``name``, if any."""
    while name:
        name = name.rpartition(".")[0]
        parent = model.get_submodule(name)
        if isinstance(parent, kind):
            return parent
    return None


def require_module(layer: nn.Module, name: str, kind: type[_ModuleT], site: str) -> _ModuleT:
    """Return the module ``name`` of ``layer``, which must be a ``kind`` with its own ``forward``.

    Raises:
        FoldError: The module is another one. A subclass, such as a LoRA layer, may apply more
            weights to its input.
    """
    module = layer.get_submodule(name)
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        raise FoldError(
            f"`{name}` in the layer of `{site}` is a {type(module).__name__}, which computes "
            f"something else than a {kind.__module__.partition('.')[0]} {kind.__name__}"
        )
    return module


class AttributeOverride(RemovableHandle):
    """Sets an attribute of a module to another value until :meth:`remove` is called."""

    def __init__(self, module: nn.Module, name: str, value: Any) -> None:
        self.module = module
        self.name = name
        self.before = getattr(module, name)
        setattr(module, name, value)

    @override
    def remove(self) -> None:
        setattr(self.module, self.name, self.before)
