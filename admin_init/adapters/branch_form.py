"""The branch form ``x + f(x) / omega``, for models whose forward gives no access to x.

For a scalar omega > 0 it is equivalent to the skip form, because a layer norm ignores the scale of
its input: LN(omega * x + f) = LN(x + f / omega), up to the eps of LN.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.adapters.padded_encoder import keep_padding_, restore_padding_
from admin_init.adapters.skip_form import nearest_parent
from admin_init.errors import FoldError, UnsupportedModelError
from admin_init.scaled_skip import omega_or_one
from admin_init.sites import BranchPlace, Recorder, ResidualSite

Weights = Sequence[tuple[Tensor, int]]
"""Weights that a branch is proportional to, each with the axis of its channels."""


class ModuleSite(ResidualSite):
    """A site whose omega is a parameter of a module of the model, whose hooks apply it.

    Args:
        model: The model.
        name: Qualified name of the site.
        stack: Name of the chain of residual connections.
        place: The module, and where its omega acts, in names of ``model``.

    Raises:
        AttributeError: The model has no module of such a name.
    """

    end: str
    """What the weights of a fold compute, for messages."""

    def __init__(self, model: nn.Module, name: str, stack: str, place: BranchPlace) -> None:
        norm = None if place.norm is None else model.get_submodule(place.norm)
        super().__init__(name, stack, norm)
        self.module = model.get_submodule(place.branch)
        self._model = model
        self._place = place

    @property
    @override
    def place(self) -> BranchPlace:
        return self._place

    @property
    @override
    def holder(self) -> nn.Module | None:
        return None if self.omega is None else self.module

    @property
    @override
    def omega(self) -> nn.Parameter | None:
        return self.module._parameters.get("omega")

    @property
    @override
    def width(self) -> int:
        return super().width if self._place.width is None else self._place.width

    @property
    @override
    def template(self) -> Tensor:
        parts = self._place.branch.split(".")
        around = (".".join(parts[:stop]) for stop in range(len(parts), -1, -1))
        modules = [self.norm, *(self._model.get_submodule(name) for name in around)]
        named = (item for m in modules if m is not None for item in m.named_parameters())
        weights = (p for name, p in named if name.rpartition(".")[2] != "omega")
        return next((p for p in weights if p.is_floating_point()), torch.empty(0))

    @override
    def install_(self) -> None:
        like = self.template
        omega = torch.ones(self.width, device=like.device, dtype=like.dtype)
        self.module.register_parameter("omega", nn.Parameter(omega))
        self.module.register_load_state_dict_pre_hook(omega_or_one)  # type: ignore[no-untyped-call]
        self.add_hook_()

    @abstractmethod
    def add_hook_(self) -> None:
        """Add the :class:`OmegaHook` to the module."""

    @override
    def uninstall_(self) -> None:
        self.module._parameters.pop("omega", None)
        vars(self.module).pop("admin_site", None)
        # Hooks are found by what they are, because handles do not survive a deepcopy.
        for hooks in (self.module._forward_hooks, self.module._forward_pre_hooks):
            for key in _remove(hooks, lambda hook: isinstance(hook, OmegaHook)):
                self.module._forward_pre_hooks_with_kwargs.pop(key, None)
        _remove(
            self.module._load_state_dict_pre_hooks,
            lambda hook: getattr(hook, "hook", None) is omega_or_one,
        )

    def checked(self, value: Tensor) -> Tensor:
        """Return a tensor that omega is to act on.

        Raises:
            UnsupportedModelError: It has another number of channels than omega.
        """
        place = self._place
        if value.dim() < -place.axis or value.shape[place.axis] != self.width:
            verb = "is called with" if place.start == "input" else "returns"
            raise UnsupportedModelError(
                f"`{place.branch}` {verb} a tensor of shape {tuple(value.shape)}, which cannot be "
                f"the {self.end} of `{self.name}`: it has no {self.width} channels."
            )
        return value

    def weights(self) -> Weights:
        """Return the weights that the fold multiplies or divides by omega.

        Raises:
            FoldError: They are unknown, or a module does not hold them any more.
        """
        place = self._place
        if self.computed_fold_problem is not None:
            raise FoldError(
                f"omega of `{self.name}` cannot be folded, because {self.computed_fold_problem}"
            )
        if place.linear is not None:
            return linear_weights(self.name, self._model.get_submodule(place.linear))
        if not place.weights:
            raise FoldError(f"the pattern of `{self.name}` does not name the `linear` at its end")
        try:
            return [(self._model.get_parameter(name), axis) for name, axis in place.weights.items()]
        except AttributeError as error:
            raise FoldError(f"the {self.end} of `{self.name}` has changed: {error}") from error

    @override
    def fold_problem(self) -> str | None:
        if self.omega is None or (torch.isfinite(self.omega).all() and (self.omega != 0).all()):
            return None
        return f"omega of `{self.name}` has channels that are zero or not finite"

    @override
    def fold_targets(self) -> Iterable[Tensor]:
        if self.omega is None or (self.omega == 1).all():
            return []
        return [weight for weight, _ in self.weights()]

    @override
    def fold_factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.omega is None or (self.omega == 1).all():
            return
        for weight, axis in self.weights():
            yield weight, along(self.factor(self.omega.detach().double()), axis)

    @abstractmethod
    def factor(self, omega: Tensor) -> Tensor:
        """Return what omega multiplies the weights by in a fold."""


class BranchSite(ModuleSite):
    """A site whose omega divides the output of a module of the model, see :class:`ModuleSite`."""

    end = "branch"

    def __init__(self, model: nn.Module, name: str, stack: str, place: BranchPlace) -> None:
        super().__init__(model, name, stack, place)
        self.branch = self.module
        self.container = None if place.container is None else model.get_submodule(place.container)
        self._encoder = nearest_parent(place.branch, model, nn.TransformerEncoder)

    @override
    def add_hook_(self) -> None:
        place = self._place
        if self.container is not None:
            path = _path(self.container, self.branch)
            self.container.register_forward_pre_hook(RestartCount(path))
        self.branch.register_forward_hook(DivideByOmega(place.leaf, place.axis, place.call))
        keep_padding_(self._encoder)

    @override
    def uninstall_(self) -> None:
        super().uninstall_()
        if self.container is not None:
            restart = RestartCount(_path(self.container, self.branch))
            _remove(self.container._forward_pre_hooks, lambda hook: hook == restart)
            vars(self.branch).pop("omega_calls", None)
        restore_padding_(self._encoder)

    @override
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        place = self._place

        def use_running(module: nn.Module, args: object, output: Any) -> Any:
            if place.call is not None and vars(module)["omega_calls"] + 1 != place.call:
                return output

            def use(branch: Tensor) -> Tensor:
                recorder.computed_in(self, self.checked(branch).dtype)
                return branch * along(module.omega / recorder.omega(self), place.axis)  # type: ignore[operator,arg-type]

            return change(output, place.leaf, use)

        return [self.branch.register_forward_hook(use_running, prepend=True)]

    def ends_at(self, leaf: int) -> bool:
        """Return whether item ``leaf`` of the last call of the module is the branch."""
        call = self._place.call
        return leaf == self._place.leaf and (
            call is None or getattr(self.branch, "omega_calls", None) == call
        )

    @override
    def factor(self, omega: Tensor) -> Tensor:
        return 1 / omega


class OmegaHook:
    """Base of the hooks that apply the omega of a module.

    They keep no tensor and no module, so that they can be pickled and copied with the module.
    """


@dataclass(frozen=True)
class DivideByOmega(OmegaHook):
    """Forward hook that divides one item of a module's output by the module's omega."""

    leaf: int
    axis: int
    turn: int | None = None
    """The call, counted from 1 in every call of a container, that is changed; None for all."""

    def __call__(self, module: nn.Module, args: object, output: Any) -> Any:
        """Return ``output`` with the item divided."""
        if self.turn is not None:
            module.omega_calls = getattr(module, "omega_calls", 0) + 1  # type: ignore[assignment]
            if module.omega_calls != self.turn:
                return output
        omega: Any = module.omega
        return change(output, self.leaf, lambda branch: branch / along(omega, self.axis))


@dataclass(frozen=True)
class RestartCount:
    """Forward pre-hook of a container, after which the calls of a module in it count from 1."""

    path: str
    """Name of the module in the container."""

    def __call__(self, container: nn.Module, args: object) -> None:
        """Set the count of the module to 0."""
        container.get_submodule(self.path).omega_calls = 0  # type: ignore[assignment]


def along(vector: Tensor, axis: int) -> Tensor:
    """Return a view of a vector that broadcasts along an axis, which is counted from the last."""
    return vector.reshape(-1, *(1,) * (-axis - 1))


def linear_weights(name: str, linear: nn.Module) -> Weights:
    """Return the weight and the bias of the nn.Linear at the end of a branch.

    Raises:
        FoldError: ``linear`` computes something else than an nn.Linear.
    """
    if not isinstance(linear, nn.Linear) or type(linear).forward is not nn.Linear.forward:
        raise FoldError(
            f"`{name}` ends in a {type(linear).__name__}, which computes something else "
            "than an nn.Linear"
        )
    bias = [] if linear.bias is None else [(linear.bias, -1)]
    return [(linear.weight, -2), *bias]


def change(output: Any, leaf: int, function: Callable[[Tensor], Tensor]) -> Any:
    """Return an output with a function applied to one of its items, nested ones included."""
    if isinstance(output, Tensor):
        return function(output)
    leaves, structure = tree_flatten(output)
    leaves[leaf] = function(leaves[leaf])
    return tree_unflatten(leaves, structure)


def _path(container: nn.Module, module: nn.Module) -> str:
    names: dict[nn.Module, str] = {other: name for name, other in container.named_modules()}
    return names[module]


def _remove(hooks: dict[int, Any], which: Callable[[Any], bool]) -> list[int]:
    keys = [key for key, hook in hooks.items() if which(hook)]
    for key in keys:
        del hooks[key]
    return keys
