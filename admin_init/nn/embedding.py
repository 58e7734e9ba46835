"""Token and position embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.nn.config import TransformerConfig
from admin_init.nn.dropout import dropout


def position_ids(tokens: Tensor, padding_idx: int) -> Tensor:
    """Count the tokens of each row from ``padding_idx + 1``, without padding, as fairseq does.

    A sentence gets the same positions with padding on either side.

    Args:
        tokens: Shape (N, T), int64.
        padding_idx: Id of padding, and also its position.

    Returns:
        Shape (N, T), int64.

    Examples:
        >>> position_ids(torch.tensor([[5, 6, 7, 1], [1, 5, 6, 7]]), padding_idx=1)
        tensor([[2, 3, 4, 1],
                [1, 2, 3, 4]])
    """
    present = tokens.ne(padding_idx).long()
    return present.cumsum(dim=1) * present + padding_idx


class SinusoidalEmbedding(nn.Module):
    """Position embedding of sines, then cosines, with wavelengths from 2 pi to 20000 pi.

    The layout is that of fairseq and tensor2tensor.

    Args:
        num_embeddings: Number of positions.
        dim: Number of channels D, even and at least 4.
        padding_idx: The position of padding, whose embedding is 0.
    """

    table: Tensor

    def __init__(self, num_embeddings: int, dim: int, padding_idx: int) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.register_buffer("table", torch.empty(num_embeddings, dim), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the table, which is not stored in checkpoints."""
        num_embeddings, dim = self.table.shape
        position = torch.arange(num_embeddings, dtype=torch.float32)
        step = math.log(10000) / (dim // 2 - 1)
        frequency = torch.exp(torch.arange(dim // 2, dtype=torch.float32) * -step)
        angle = position[:, None] * frequency
        table = torch.cat([angle.sin(), angle.cos()], dim=1)
        table[self.padding_idx] = 0
        self.table.copy_(table)

    def forward(self, positions: Tensor) -> Tensor:
        """Look up positions of shape (N, T); returns (N, T, D)."""
        return F.embedding(positions, self.table)


class InputEmbedding(nn.Module):
    """``input_scale * (sqrt(D) * token embedding + position embedding)``, then dropout.

    Args:
        tokens: The token embedding, V x D, which may be shared.
        padding_idx: Token id of padding.
        max_positions: Length of the longest sequence, in tokens.
        learned: Whether positions are learned instead of sinusoidal.
        dropout: Probability of dropping a channel.
        input_scale: Factor of the output.
    """

    def __init__(
        self,
        tokens: nn.Embedding,
        *,
        padding_idx: int,
        max_positions: int,
        learned: bool,
        dropout: float,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        dim = tokens.embedding_dim
        self.padding_idx = padding_idx
        self.max_positions = max_positions
        self.scale = math.sqrt(dim)
        self.dropout = dropout
        self.input_scale = input_scale
        self.tokens = tokens
        kind = nn.Embedding if learned else SinusoidalEmbedding
        self.positions = kind(max_positions + padding_idx + 1, dim, padding_idx)

    def forward(self, tokens: Tensor, offset: int = 0) -> Tensor:
        """Embed tokens.

        Args:
            tokens: Shape (N, T), int64.
            offset: Number of previous tokens.

        Returns:
            Shape (N, T, D).

        Raises:
            ValueError: The sequence is longer than ``max_positions``.
        """
        length = tokens.shape[1] + offset
        if length > self.max_positions:
            raise ValueError(
                f"A sequence must have at most `max_positions` = {self.max_positions} tokens, but "
                f"has {length}. Build the model with more positions, or leave the sequence out."
            )
        positions = self.positions(position_ids(tokens, self.padding_idx) + offset)
        x = torch.add(positions, self.tokens(tokens), alpha=self.scale)
        if self.input_scale != 1.0:
            x = self.input_scale * x
        return dropout(x, self.dropout, self.training)

    def extra_repr(self) -> str:
        """Return the settings that ``print(model)`` shows."""
        return (
            f"max_positions={self.max_positions}, dropout={self.dropout}, "
            f"input_scale={self.input_scale}"
        )


def token_embedding(config: TransformerConfig) -> nn.Embedding:
    """Build the token embedding, V x D.

    Raises:
        ValueError: ``vocabulary_size`` is None.
    """
    if config.vocabulary_size is None:
        raise ValueError("`vocabulary_size` must be set to build a model, but is None.")
    return nn.Embedding(config.vocabulary_size, config.dim, config.padding_idx)


def input_embedding(config: TransformerConfig, tokens: nn.Embedding) -> InputEmbedding:
    """Build the embedding of a stack from ``tokens``, which may be shared."""
    return InputEmbedding(
        tokens,
        padding_idx=config.padding_idx,
        max_positions=config.max_positions,
        learned=config.positions == "learned",
        dropout=config.dropout,
        input_scale=config.input_scale,
    )
