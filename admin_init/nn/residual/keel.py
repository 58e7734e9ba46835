"""KEEL."""

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


class KeelResidual(ResidualConnection):
    """``LN(alpha * x + f(LN(x)))`` with norms without bias.

    Args:
        dim: Number of channels D.
        alpha: Scale of the shortcut.
        outer: Whether the sum is normalized.
    """

    def __init__(self, dim: int, alpha: float, *, outer: bool = True) -> None:
        super().__init__()
        self.alpha = alpha
        self.inner = nn.LayerNorm(dim, bias=False)
        self.skip = SkipConnection()
        self.norm = nn.LayerNorm(dim, bias=False) if outer else nn.Identity()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        normed: Tensor = self.norm(self.skip(self.alpha * x, branch(self.inner(x))))
        return normed


@register_style("keel")
class KeelStyle(ResidualStyle):
    """KEEL (Chen and Wei, arXiv 2601.19895, section 3.1): Post-LN with a highway of constant scale.

    alpha is the number of sub-layers of the stack. The first attention is ``x + f(LN(x))``, without
    outer norm, and the first FFN has alpha = 1. The paper has decoder-only models. Encoders and
    cross-attention are our extension: cross-attention counts as a sub-layer, and the first one has
    alpha = 1.
    """

    def connection(self, layer: int, sublayer: SublayerKind) -> KeelResidual:
        """See :class:`ResidualStyle`."""
        alpha = 1.0 if layer == 0 else float(self.shape.sublayers)
        first = layer == 0 and sublayer == "self_attn"
        return KeelResidual(self.shape.dim, alpha, outer=not first)
