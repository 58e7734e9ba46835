"""T-Fixup."""

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


class TFixupResidual(ResidualConnection):
    """``x + f(x)``, without any norm."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = SkipConnection()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        total: Tensor = self.skip(x, branch(x))
        return total


@register_style("t-fixup")
class TFixupStyle(ResidualStyle):
    """T-Fixup (Huang et al., ICML 2020): an initialization instead of norms.

    T-Fixup is designed for training without warm-up. After Xavier initialization, FFN, value and
    output projections are scaled by .67 N^(-1/4) in an encoder of N layers and by (9 M)^(-1/4) in a
    decoder of M layers. Embeddings, normal with standard deviation D^(-1/2), are scaled by
    (9 N)^(-1/4) and (9 M)^(-1/4), and a shared embedding by the encoder's factor. Value projections
    are also scaled by sqrt(2), which cancels the gain 1 / sqrt(2) of their initialization here and
    in the released code.

    The paper has encoder-decoder models, whose decoder has three sub-layers per layer. A single
    stack has two, so it uses the encoder's factors.
    """

    @property
    def scale(self) -> float:
        """Factor of FFN, value and output projections."""
        layers = self.shape.layers
        encoder = self.shape.kind == "encoder" or self.shape.single_stack
        return float(0.67 * layers**-0.25 if encoder else (9 * layers) ** -0.25)

    @property
    def embedding_scale(self) -> float:
        """Factor of the stack's own token embedding."""
        return float((9 * self.shape.layers) ** -0.25)

    def connection(self, layer: int, sublayer: SublayerKind) -> TFixupResidual:
        """See :class:`ResidualStyle`."""
        return TFixupResidual()

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """Scale the Xavier-initialized weights."""
        for projection in projections(stack):
            if projection.scales_branch:
                undo = 2**0.5 if projection.name == "value" else 1.0
                projection.weight.mul_(self.scale * undo)
        if embedding is not None:
            embedding.get_parameter("tokens.weight").mul_(self.embedding_scale)
