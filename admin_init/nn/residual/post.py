"""Post-LN."""

from __future__ import annotations

from torch import Tensor, nn

from admin_init.nn.residual.base import (
    Branch,
    ResidualConnection,
    ResidualStyle,
    SkipConnection,
    State,
    SublayerKind,
    register_style,
)


class PostResidual(ResidualConnection):
    """``LN(x + f(x))``, as in Vaswani et al. (arXiv 1706.03762).

    Args:
        dim: Number of channels D.
        skip: The module that computes the sum; :class:`SkipConnection` by default.
    """

    def __init__(self, dim: int, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.skip = SkipConnection() if skip is None else skip
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        normed: Tensor = self.norm(self.skip(x, branch(x)))
        return normed


@register_style("post")
class PostStyle(ResidualStyle):
    """Post-LN: every sub-layer ends with a norm of the sum, and the stack has no final norm."""

    def connection(self, layer: int, sublayer: SublayerKind) -> PostResidual:
        """See :class:`ResidualStyle`."""
        return PostResidual(self.shape.dim)
