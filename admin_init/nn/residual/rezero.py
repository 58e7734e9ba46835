"""ReZero."""

from __future__ import annotations

import torch
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


class Gate(nn.Module):
    """A trainable scalar that starts at 0.

    This is a module because moving a model to another device may split a shared parameter in two,
    but never a shared module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, branch: Tensor) -> Tensor:
        """Scale a tensor of any shape."""
        return self.alpha * branch


class ReZeroResidual(ResidualConnection):
    """``x + alpha * f(x)``.

    Args:
        gate: The module that holds alpha.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate
        self.skip = SkipConnection()

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """See :class:`ResidualConnection`."""
        total: Tensor = self.skip(x, self.gate(branch(x)))
        return total


@register_style("rezero")
class ReZeroStyle(ResidualStyle):
    """ReZero (Bachlechner et al., arXiv 2003.04887): no norm, every branch starts at 0.

    The sub-layers of a layer share one alpha. The paper has no cross-attention; ours also uses the
    alpha of its layer.
    """

    def connection(self, layer: int, sublayer: SublayerKind) -> ReZeroResidual:
        """See :class:`ResidualStyle`."""
        if sublayer == "self_attn":
            self._gate = Gate()
        return ReZeroResidual(self._gate)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        """Set every alpha to 0."""
        for module in stack.modules():
            if isinstance(module, Gate):
                nn.init.zeros_(module.alpha)
