"""The stream form ``omega * x_0 + f_1(LN x_0) + f_2(LN x_1) + ...``, for Pre-LN models.

For omega > 0, the first branch stays as it is up to the eps of its norm, because a norm ignores the
scale of its input. omega sets what part of the later norms' inputs x_0 is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.adapters.branch_form import ModuleSite, OmegaHook, along, change
from admin_init.sites import Recorder


class StreamSite(ModuleSite):
    """A site whose omega multiplies x_0, the input of a Pre-LN stream.

    x_0 is the output or an argument of a module of the model, see :class:`ModuleSite`. Its omega is
    to be the same in all channels, and the site has neither a norm nor a previous site.

    A fold multiplies the parameters that x_0 is proportional to, all together, which is exact for
    any omega: nothing but the stream reads x_0.
    """

    end = "input"

    @property
    def _hook(self) -> MultiplyOutput | MultiplyArgument:
        kind = MultiplyArgument if self._place.start == "input" else MultiplyOutput
        return kind(self._place.leaf, self._place.axis)

    @override
    def add_hook_(self) -> None:
        hook = self._hook
        if isinstance(hook, MultiplyArgument):
            self.module.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            self.module.register_forward_hook(hook)

    @override
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        """Multiply x_0 by the recorder's omega in place of the stored one; record nothing."""
        hook = self._hook

        def scale(x: Tensor) -> Tensor:
            factor: Any = recorder.omega(self) / self.module.omega  # type: ignore[operator]
            return multiply(self.checked(x), factor, hook.axis)

        if isinstance(hook, MultiplyArgument):
            handle = self.module.register_forward_pre_hook(
                lambda _, args, kwargs: change_argument(args, kwargs, hook.leaf, scale),
                with_kwargs=True,
            )
        else:
            handle = self.module.register_forward_hook(
                lambda _, args, output: change(output, hook.leaf, scale), prepend=True
            )
        return [handle]

    @override
    def factor(self, omega: Tensor) -> Tensor:
        return omega


@dataclass(frozen=True)
class MultiplyOutput(OmegaHook):
    """Forward hook that multiplies one item of a module's output by the module's omega."""

    leaf: int
    axis: int

    def __call__(self, module: nn.Module, args: object, output: Any) -> Any:
        """Return ``output`` with the item multiplied."""
        omega: Any = module.omega
        return change(output, self.leaf, lambda x: multiply(x, omega, self.axis))


@dataclass(frozen=True)
class MultiplyArgument(OmegaHook):
    """Forward pre-hook that multiplies one argument of a module by the module's omega."""

    leaf: int
    axis: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments with that one multiplied."""
        omega: Any = module.omega
        return change_argument(args, kwargs, self.leaf, lambda x: multiply(x, omega, self.axis))


def multiply(x: Tensor, omega: Tensor, axis: int) -> Tensor:
    """Multiply the channels of a tensor, whose type is kept."""
    return x * along(omega, axis).to(x.dtype)


def change_argument(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    index: int,
    function: Callable[[Tensor], Tensor],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with a function applied to one of them; those with names come last."""
    given = [*args, *kwargs.values()]
    given[index] = function(given[index])
    return tuple(given[: len(args)]), dict(zip(kwargs, given[len(args) :], strict=True))
