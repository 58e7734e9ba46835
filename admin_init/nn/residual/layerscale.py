"""LayerScale."""

from __future__ import annotations

import torch
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


class LayerScaleResidual(ResidualConnection):
    """``x + diag(lambda) f(LN(x))`` with a trainable lambda of D channels.

    Args:
        dim: Number of channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.scale = nn.Parameter(torch.ones(dim))
        self.skip = SkipConnection()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        total: Tensor = self.skip(x, self.scale * branch(self.norm(x)))
        return total


@register_style("layerscale")
class LayerScaleStyle(PreStyle):
    """CaiT's LayerScale (Touvron et al., arXiv 2103.17239, section 2): Pre-LN, small branches.

    Every lambda starts at .1 in stacks of up to 18 layers, 1e-5 at 24, and 1e-6 at 36 and 48. For
    depths that the paper leaves out, 19 to 23 layers count as 24, and more than 24 as 36. The paper
    has vision encoders; decoders and their cross-attention are treated the same way.
    """

    @property
    def start(self) -> float:
        """Initial value of every lambda."""
        if self.shape.layers <= 18:
            return 0.1
        return 1e-5 if self.shape.layers <= 24 else 1e-6

    def connection(self, layer: int, sublayer: SublayerKind) -> ResidualConnection:
        """See :class:`ResidualStyle`."""
        return LayerScaleResidual(self.shape.dim)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """Set every lambda."""
        for module in stack.modules():
            if isinstance(module, LayerScaleResidual):
                nn.init.constant_(module.scale, self.start)
