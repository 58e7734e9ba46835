"""The bottom-to-top connection."""

from __future__ import annotations

from typing import ClassVar

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
from admin_init.nn.residual.projections import projections


class B2TResidual(ResidualConnection):
    """``LN(x + f(x))``, or ``LN(x_in + x + f(x))`` in the last sub-layer, for a layer input x_in.

    Args:
        dim: Number of channels D.
        sublayer: Kind of the sub-layer.
    """

    def __init__(self, dim: int, sublayer: SublayerKind) -> None:
        super().__init__()
        self.sublayer = sublayer
        self.skip = SkipConnection()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        if self.sublayer == "self_attn":
            state["layer_input"] = x
        shortcut = state["layer_input"] + x if self.sublayer == "ffn" else x
        normed: Tensor = self.norm(self.skip(shortcut, branch(x)))
        return normed


@register_style("b2t")
class B2TStyle(ResidualStyle):
    """B2T connection (Takase et al., arXiv 2206.00330): Post-LN with a path around each layer."""

    scaled: ClassVar[bool] = False

    def connection(self, layer: int, sublayer: SublayerKind) -> B2TResidual:
        """See :class:`ResidualStyle`."""
        return B2TResidual(self.shape.dim, sublayer)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """Scale all matrices in the scaled style."""
        if self.scaled:
            for projection in projections(stack):
                projection.weight.mul_(self.shape.layers**-0.5)


@register_style("b2t-scaled")
class ScaledB2TStyle(B2TStyle):
    """B2T with an option of its released code: all matrices are scaled by (layers)^(-1/2)."""

    scaled = True
