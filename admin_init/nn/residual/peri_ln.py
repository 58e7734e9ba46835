"""Peri-LN."""

from __future__ import annotations

from torch import Tensor, nn

from admin_init.nn.residual.base import (
    Branch,
    ResidualConnection,
    SkipConnection,
    State,
    SublayerKind,
    register_style,
)
from admin_init.nn.residual.pre import PreStyle


class PeriResidual(ResidualConnection):
    """``x + LN(f(LN(x)))``.

    Args:
        dim: Number of channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.output_norm = nn.LayerNorm(dim)
        self.skip = SkipConnection()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        total: Tensor = self.skip(x, self.output_norm(branch(self.norm(x))))
        return total


@register_style("peri-ln")
class PeriStyle(PreStyle):
    """Peri-LN (Kim et al., arXiv 2502.02732, section 3): norms before and after every branch.

    The norm of the embeddings, which is optional in the paper, is left out. The paper has
    decoder-only models; cross-attention is treated like the other sub-layers.
    """

    def connection(self, layer: int, sublayer: SublayerKind) -> ResidualConnection:
        """See :class:`ResidualStyle`."""
        return PeriResidual(self.shape.dim)
