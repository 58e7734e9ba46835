"""LayerNorm Scaling."""

from __future__ import annotations

import math

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


class LNSResidual(ResidualConnection):
    """``x + f(LN(x) / sqrt(l))``, where l is the index of the layer, from 1.

    Args:
        dim: Number of channels D.
        layer: The index l.
    """

    def __init__(self, dim: int, layer: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(layer)
        self.norm = nn.LayerNorm(dim)
        self.skip = SkipConnection()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        total: Tensor = self.skip(x, branch(self.scale * self.norm(x)))
        return total


@register_style("lns")
class LNSStyle(PreStyle):
    """LayerNorm Scaling (Sun et al., arXiv 2502.05795): Pre-LN whose norms shrink with depth.

    All sub-layers of a layer have the same factor. The paper has decoder-only models; our
    cross-attention has this factor too. The initialization is not scaled.
    """

    def connection(self, layer: int, sublayer: SublayerKind) -> ResidualConnection:
        """See :class:`ResidualStyle`."""
        return LNSResidual(self.shape.dim, layer + 1)
