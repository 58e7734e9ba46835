"""The keys and values that token by token decoding keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FIRST_CAPACITY = 16
"""Tokens that there is room for at first."""


@dataclass
class LayerCache:
    """Keys and values of one decoder layer, packed as (rows, length, 2, heads, D / heads).

    Those of the target lie in a buffer that is longer than they are: a new tensor for every token
    would take longer to allocate than to fill. No gradients flow through it.
    """

    target: Tensor | None = None
    """Of the self-attention: one row a hypothesis, of which the first :attr:`length` are set."""

    length: int = 0
    """Number of tokens in :attr:`target`."""

    source: Tensor | None = None
    """Of the cross-attention: one row a sentence, computed once."""

    def extend_(self, keys_values: Tensor) -> Tensor:
        """Add those of the newest token to :attr:`target`, and return all of them.

        Args:
            keys_values: Shape (rows, 1, 2, heads, D / heads).

        Returns:
            A view, shape (rows, length, 2, heads, D / heads).
        """
        if self.target is None or self.length == self.target.shape[1]:
            rows, _, *shape = keys_values.shape
            longer = keys_values.new_empty(rows, max(2 * self.length, _FIRST_CAPACITY), *shape)
            if self.target is not None:
                longer[:, : self.length] = self.target
            self.target = longer
        self.target[:, self.length] = keys_values[:, 0]
        self.length += 1
        return self.target[:, : self.length]

    def reorder_target_(self, index: Tensor, spare: Tensor | None) -> Tensor | None:
        """Let row i of :attr:`target` become what row ``index[i]`` was.

        Args:
            index: Shape (rows,), int64.
            spare: A buffer to move to, if it is large enough.

        Returns:
            The buffer that it moved out of.
        """
        old = self.target
        if old is None:
            return spare
        if spare is None or len(spare) < len(index) or spare.shape[1] < old.shape[1]:
            spare = old.new_empty(len(index), *old.shape[1:])
        self.target = spare[: len(index)]
        set_ = slice(self.length)
        torch.index_select(old[:, set_], 0, index, out=self.target[:, set_])
        return old


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
        self._spare: Tensor | None = None

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
            # One buffer more than there are layers goes from layer to layer.
            self._spare = layer.reorder_target_(index, self._spare)

    def reorder_source_(self, index: Tensor) -> None:
        """Reorder the source rows only."""
        for layer in self.layers:
            if layer.source is not None:
                layer.source = layer.source.index_select(0, index)
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, index)
