"""The branch form ``x + f(x) / omega``, for models whose forward gives no access to x.

For a scalar omega > 0 it is equivalent to the skip form, because a layer norm ignores the scale of
its input: LN(omega * x + f) = LN(x + f / omega), up to the eps of LN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.errors import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.scaled_skip import omega_or_one
from admin_init.sites import Recorder, ResidualSite


class BranchSite(ResidualSite):
    """A site whose omega divides the output of a module of the model.

    See :class:`~admin_init.adapters.patterns.SitePattern` for ``branch``, ``linear``, ``norm`` and
    ``reader``.
    """

    def __init__(
        self,
        name: str,
        stack: str,
        norm: nn.Module,
        branch: nn.Module,
        linear: nn.Module,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__(name, stack, norm)
        self.branch = branch
        self.linear = linear
        self.reader = reader

    @property
    @override
    def omega(self) -> nn.Parameter | None:
        return self.branch._parameters.get("omega")

    @override
    def install_(self) -> None:
        self.branch.register_parameter("omega", nn.Parameter(torch.ones_like(self.norm_weight)))
        self.branch.register_forward_hook(_divide_by_omega)
        self.branch.register_load_state_dict_pre_hook(omega_or_one)  # type: ignore[no-untyped-call]

    @override
    def uninstall_(self) -> None:
        self.branch._parameters.pop("omega", None)
        # Hooks are found by identity, because handles do not survive a deepcopy.
        for key, hook in list(self.branch._forward_hooks.items()):
            if hook is _divide_by_omega:
                del self.branch._forward_hooks[key]
        for key, wrapped in list(self.branch._load_state_dict_pre_hooks.items()):
            if getattr(wrapped, "hook", None) is omega_or_one:
                del self.branch._load_state_dict_pre_hooks[key]

    @override
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        inputs: list[Tensor] = []
        branches: list[Tensor] = []

        def on_reader(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Cloned, because the model may add the branch in place.
            inputs.append(next(iter((*args, *kwargs.values()))).clone())

        def on_branch(module: nn.Module, args: object, output: Any) -> Any:
            branch = _first(output)
            branches.append(branch)
            return _with_first(output, branch * (module.omega / recorder.omega(self)))  # type: ignore[operator,arg-type]

        def on_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not branches:
                raise NotPostLNError(
                    f"The norm of `{self.name}` ran before its branch, so the sum is not its "
                    "input. The sub-layer is Pre-LN, or the pattern names the wrong norm."
                )
            branch, running = branches.pop(), recorder.omega(self)
            if self.reader is None:
                shortcut = args[0] - branch / running
            elif inputs:
                shortcut = inputs.pop()
                branch = ((args[0] - shortcut) * running).to(branch.dtype)
            else:
                raise UnsupportedModelError(
                    f"The `reader` of `{self.name}`, a {type(self.reader).__name__}, did not run "
                    "before the norm, so the input of the sub-layer is unknown. Name a module "
                    "whose first argument is that input."
                )
            recorder.record(self, shortcut, branch)

        handles = [
            self.branch.register_forward_hook(on_branch, prepend=True),
            self.norm.register_forward_pre_hook(on_norm),
        ]
        if self.reader is not None:
            handles.append(self.reader.register_forward_pre_hook(on_reader, with_kwargs=True))
        return handles

    @override
    def fold_problem(self) -> str | None:
        if self.omega is None or (torch.isfinite(self.omega).all() and (self.omega != 0).all()):
            return None
        return f"omega of `{self.name}` has channels that are zero or not finite"

    @override
    def fold_targets(self) -> Iterable[Tensor]:
        return [self._plain_linear().weight]

    @override
    def fold_factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.omega is None:
            return
        factor, linear = 1 / self.omega.detach().double(), self._plain_linear()
        yield linear.weight, factor[:, None]
        if linear.bias is not None:
            yield linear.bias, factor

    def _plain_linear(self) -> nn.Linear:
        linear = self.linear
        if not isinstance(linear, nn.Linear) or type(linear).forward is not nn.Linear.forward:
            raise FoldError(
                f"`{self.name}` ends in a {type(linear).__name__}, which computes something else "
                "than an nn.Linear"
            )
        return linear


def _divide_by_omega(module: nn.Module, args: object, output: Any) -> Any:
    return _with_first(output, _first(output) / module.omega)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, first: Any) -> Any:
    return (first, *output[1:]) if isinstance(output, tuple) else first
