"""Sub-LN."""

from __future__ import annotations

import math

from torch import nn

from admin_init.nn.residual.base import SublayerKind, register_style
from admin_init.nn.residual.pre import PreStyle
from admin_init.nn.residual.projections import projections


@register_style("sub-ln")
class SubLNStyle(PreStyle):
    """Magneto's Sub-LN (Wang et al., arXiv 2210.06423): Pre-LN with a norm inside each branch.

    The second norm stands before the output projection of self-attention, and before the second
    projection of the FFN, after its activation; cross-attention has none. FFN, value and output
    projections start with a Xavier gain of sqrt(ln(3 M) ln(2 N) / 3) in an encoder of N layers
    beside a decoder of M, and sqrt(ln(3 M)) in that decoder, whose cross-attention keeps its
    initialization, as in torchscale; a stack of L layers alone has sqrt(ln(2 L)).
    """

    @property
    def gain(self) -> float:
        """Xavier gain of FFN, value and output projections; 1 for queries and keys."""
        if self.shape.single_stack:
            return math.sqrt(math.log(2 * self.shape.layers))
        decoder = math.log(3 * self.shape.decoder_layers)
        if self.shape.kind == "decoder":
            return math.sqrt(decoder)
        return math.sqrt(decoder * math.log(2 * self.shape.encoder_layers) / 3)

    def inner_norm(self, layer: int, sublayer: SublayerKind, width: int) -> nn.Module | None:
        """See :class:`ResidualStyle`."""
        return None if sublayer == "cross_attn" else nn.LayerNorm(width)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """Draw the matrices from Xavier's normal distribution, as the paper's pseudo-code does."""
        for projection in projections(stack):
            if not projection.cross_attention:
                gain = self.gain if projection.scales_branch else 1.0
                nn.init.xavier_normal_(projection.weight, gain=gain)
