"""Pre-LN."""

from __future__ import annotations

from torch import Tensor, nn

from admin_init.nn.residual.base import (
    Branch,
    ResidualConnection,
    ResidualStyle,
    SkipConnection,
    StackEnd,
    State,
    SublayerKind,
    register_style,
)


class PreResidual(ResidualConnection):
    """``x + f(LN(x))``, as in Wang et al. (arXiv 1906.01787) and Xiong et al. (arXiv 2002.04745).

    Args:
        dim: Number of channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.skip = SkipConnection()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        total: Tensor = self.skip(x, branch(self.norm(x)))
        return total


class FinalNorm(StackEnd):
    """Final norm of a stack.

    Args:
        dim: Number of channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, state: State) -> Tensor:
        """See :class:`StackEnd`."""
        normed: Tensor = self.norm(x)
        return normed


@register_style("pre")
class PreStyle(ResidualStyle):
    """Pre-LN: every branch starts with a norm, and the stack has a final norm."""

    def connection(self, layer: int, sublayer: SublayerKind) -> ResidualConnection:
        """See :class:`ResidualStyle`."""
        return PreResidual(self.shape.dim)

    def end(self) -> FinalNorm:
        """See :class:`ResidualStyle`."""
        return FinalNorm(self.shape.dim)


@register_style("pre-share")
class SharePreStyle(PreStyle):
    """Pre-LN whose profile scales the input of the stack to a share of the output's variance.

    This is the rule ``share`` of :func:`admin_init.omega.omega_from_variances`, which is ours. The
    omega is not part of the stack: :class:`~admin_init.AdminInit` adds it to the embedding.
    """

    profiled_by = "share"
