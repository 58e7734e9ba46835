"""DeepNorm."""

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
from admin_init.nn.residual.projections import projections


class DeepNormResidual(ResidualConnection):
    """``LN(alpha * x + f(x))`` with a constant alpha.

    Args:
        dim: Number of channels D.
        alpha: Scale of the shortcut.
    """

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.skip = SkipConnection()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        normed: Tensor = self.norm(self.skip(self.alpha * x, branch(x)))
        return normed


@register_style("deepnorm")
class DeepNormStyle(ResidualStyle):
    """DeepNet (Wang et al., arXiv 2203.00555, figure 2): alpha and beta depend on the depth only.

    With N encoder and M decoder layers, alpha and beta are .81 (N^4 M)^(1/16) and
    .87 (N^4 M)^(-1/16) in the encoder, and (3 M)^(1/4) and (12 M)^(-1/4) in the decoder. In an
    encoder-only or decoder-only model of L layers, they are (2 L)^(1/4) and (8 L)^(-1/4).
    torchscale's encoder has 1.15 instead of the paper's .87.
    """

    @property
    def alpha(self) -> float:
        """Scale of every shortcut of the stack."""
        if self.shape.single_stack:
            return float((2 * self.shape.layers) ** 0.25)
        if self.shape.kind == "encoder":
            return float(0.81 * self._both**0.0625)
        return float((3 * self.shape.layers) ** 0.25)

    @property
    def beta(self) -> float:
        """Xavier gain of the FFN and of value and output projections; 1 for queries and keys."""
        if self.shape.single_stack:
            return float((8 * self.shape.layers) ** -0.25)
        if self.shape.kind == "encoder":
            return float(0.87 * self._both**-0.0625)
        return float((12 * self.shape.layers) ** -0.25)

    @property
    def _both(self) -> int:
        return self.shape.encoder_layers**4 * self.shape.decoder_layers

    def connection(self, layer: int, sublayer: SublayerKind) -> DeepNormResidual:
        """See :class:`ResidualStyle`."""
        return DeepNormResidual(self.shape.dim, self.alpha)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """Draw every matrix from Xavier's normal distribution, as the paper's pseudo-code does."""
        for projection in projections(stack):
            gain = self.beta if projection.scales_branch else 1.0
            nn.init.xavier_normal_(projection.weight, gain=gain)
