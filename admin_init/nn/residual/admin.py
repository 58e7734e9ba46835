"""Admin: Post-LN with scaled shortcuts, profiled or in closed form."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from admin_init.nn.residual.base import ResidualStyle, SublayerKind, register_style
from admin_init.nn.residual.post import PostResidual
from admin_init.omega import Rule, closed_form
from admin_init.scaled_skip import ScaledSkip


@register_style("admin")
class AdminStyle(ResidualStyle):
    """``LN(omega * x + f(x))`` as in Liu et al. (arXiv 2004.08249), with omega = 1 until profiled.

    The first omega of a stack stays 1 and is not trained, so that all omegas can be folded.
    """

    profiled_by: ClassVar[Rule | None] = "reference"

    def connection(self, layer: int, sublayer: SublayerKind) -> PostResidual:
        """See :class:`ResidualStyle`."""
        first = layer == 0 and sublayer == "self_attn"
        return PostResidual(self.shape.dim, ScaledSkip(self.shape.dim, trainable=not first))

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """See :class:`ResidualStyle`."""
        for module in stack.modules():
            if isinstance(module, ScaledSkip):
                module.reset_parameters()


@register_style("admin-closed")
class ClosedAdminStyle(ResidualStyle):
    """Admin with one omega for the whole stack, computed from its depth (admin-torch 0.1.0).

    The output change is O(log n), or O(1) in the style ``admin-closed-constant``. The first omega
    is not trained, so that a trained model can be folded; admin-torch trains it.
    """

    rule: ClassVar[Literal["log", "constant"]] = "log"

    def connection(self, layer: int, sublayer: SublayerKind) -> PostResidual:
        """See :class:`ResidualStyle`."""
        first = layer == 0 and sublayer == "self_attn"
        return PostResidual(self.shape.dim, ScaledSkip(self.shape.dim, trainable=not first))

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """See :class:`ResidualStyle`."""
        omega = closed_form(self.shape.sublayers, self.rule)
        for module in stack.modules():
            if isinstance(module, ScaledSkip):
                nn.init.constant_(module.omega, omega)


@register_style("admin-closed-constant")
class ConstantAdminStyle(ClosedAdminStyle):
    """Admin in closed form for an output change of O(1)."""

    rule = "constant"


@register_style("admin-share")
class ShareAdminStyle(AdminStyle):
    """Admin whose profile gives the input of the stack a share of the output's variance.

    This is the rule ``share`` of :func:`admin_init.omega.omega_from_variances`, which is ours.
    """

    profiled_by = "share"
