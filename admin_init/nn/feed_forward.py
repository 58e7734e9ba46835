"""The position-wise feed-forward sub-layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.nn.dropout import dropout


class FeedForward(nn.Module):
    """Feed-forward network ``W2 relu(W1 x + b1) + b2``, applied to each position.

    Args:
        dim: Number of channels D.
        ffn_dim: Number of inner channels.
        dropout: Probability of dropping a channel of the output.
        activation_dropout: Probability of dropping an inner channel.
        inner_norm: Norm before the second projection, if any.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        *,
        dropout: float = 0.0,
        activation_dropout: float = 0.0,
        inner_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.activation_dropout = activation_dropout
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.inner_norm = inner_norm
        self.fc2 = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, T, D) to (N, T, D)."""
        x = dropout(F.relu(self.fc1(x)), self.activation_dropout, self.training)
        if self.inner_norm is not None:
            x = self.inner_norm(x)
        return dropout(self.fc2(x), self.dropout, self.training)

    def extra_repr(self) -> str:
        """Return the settings that ``print(model)`` shows."""
        return f"dropout={self.dropout}, activation_dropout={self.activation_dropout}"
