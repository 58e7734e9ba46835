"""ResiDual."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from admin_init.nn.residual.base import (
    Branch,
    ResidualConnection,
    ResidualStyle,
    SkipConnection,
    StackEnd,
    State,
    SublayerKind,
    register_style,
)


class ResiDualResidual(ResidualConnection):
    """``x = LN(x + f(x))`` with a second, unnormalized stream ``d = d + s f(x)``.

    d starts as s times the input of the stack. s is 1, or .05 in float16, where d would overflow
    (the released code's setting for OPUS-100).

    Args:
        dim: Number of channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.skip = SkipConnection()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        scale = 0.05 if x.dtype is torch.float16 else 1.0
        output = branch(x)
        state["dual"] = (state["dual"] if "dual" in state else scale * x) + scale * output
        normed: Tensor = self.norm(self.skip(x, output))
        return normed


class ResiDualEnd(StackEnd):
    """Sum ``x + LN(d)`` of both streams.

    Args:
        dim: Number of channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-7)

    def forward(self, x: Tensor, state: State) -> Tensor:
        """See :class:`StackEnd`."""
        total: Tensor = x + self.norm(state["dual"])
        return total


@register_style("resi-dual")
class ResiDualStyle(ResidualStyle):
    """ResiDual (Xie et al., arXiv 2304.14802, section 3): Post-LN with a second, Pre-LN stream.

    The norm of d, one per stack, has eps 1e-7. In the decoder, d also sums cross-attention.
    """

    def connection(self, layer: int, sublayer: SublayerKind) -> ResiDualResidual:
        """See :class:`ResidualStyle`."""
        return ResiDualResidual(self.shape.dim)

    def end(self) -> ResiDualEnd:
        """See :class:`ResidualStyle`."""
        return ResiDualEnd(self.shape.dim)
