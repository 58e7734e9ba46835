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

    The second norm comes before the output projection of self-attention, and between activation and
    second projection of the FFN; cross-attention has none. In a model of N encoder and M decoder
    layers, FFN, value and output projections have a Xavier gain of sqrt(ln(3 M) ln(2 N) / 3) in the
    encoder and sqrt(ln(3 M)) in the decoder; in a single stack of L layers, sqrt(ln(2 L)).
    Cross-attention keeps its initialization, as in torchscale.
    """

    @property
    def gain(self) -> float:
        """Xavier gain of FFN, value and output projections; queries and keys have gain 1."""
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
