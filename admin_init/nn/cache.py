"""The keys and values that token by token decoding keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LayerCache:
    """Keys and values of one decoder layer, packed as (rows, length, 2, heads, D / heads)."""

    target: Tensor | None = None
    """Of the self-attention: one row a hypothesis, grows with every token."""

    source: Tensor | None = None
    """Of the cross-attention: one row a sentence, computed once."""

    def extend_(self, keys_values: Tensor) -> Tensor:
        """Add those of the newest token to :attr:`target`, and return all of them."""
        if self.target is not None:
            keys_values = torch.cat([self.target, keys_values], dim=1)
        self.target = keys_values
        return keys_values


class DecoderCache:
    """Keys and values of all the layers of a decoder.

    Its rows are hypotheses. Several hypotheses of one sentence can share the sentence's encoder
    states: then there are as many source rows as sentences, each one's hypotheses lie next to each
    other, and all sentences have equally many.

    Args:
        layers: Number of decoder layers.
    """

    def __init__(self, layers: int) -> None:
        self.layers = [LayerCache() for _ in range(layers)]
        self.source_mask: Tensor | None = None
        self.length = 0

    def reorder_(self, index: Tensor) -> None:
        """Let row i become what row ``index[i]`` was; ``index`` may repeat and leave out rows.

        Args:
            index: Rows to go on with, shape (rows,), int64.
        """
        self.reorder_target_(index)
        self.reorder_source_(index)

    def reorder_target_(self, index: Tensor) -> None:
        """Reorder hypotheses only, whose sentences' source rows stay as they are."""
        for layer in self.layers:
            if layer.target is not None:
                layer.target = layer.target.index_select(0, index)

    def reorder_source_(self, index: Tensor) -> None:
        """Reorder the source rows only."""
        for layer in self.layers:
            if layer.source is not None:
                layer.source = layer.source.index_select(0, index)
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, index)
