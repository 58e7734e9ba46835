"""The keys and values that token by token decoding keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_ROOM = 4
"""Tokens that a buffer grows by when it is full."""


class KeysValues(NamedTuple):
    """What an attention attends to, each of shape (rows, heads, length, D / heads)."""

    keys: Tensor
    values: Tensor


@dataclass
class LayerCache:
    """Keys and values of one decoder layer. No gradients flow through it.

    Those of the target lie in buffers with room for tokens to come: a new tensor for every token
    would take longer to allocate than to fill, and products of whole buffers are several times as
    fast as of slices. So an attention takes :attr:`mask` to leave the empty places out.
    """

    target: KeysValues | None = None
    """Of the self-attention: one row a hypothesis, zeros from :attr:`length` on."""

    mask: Tensor | None = None
    """0 for the tokens in :attr:`target`, -inf for the places after them; shape (1, its length)."""

    length: int = 0
    """Number of tokens in :attr:`target`."""

    source: KeysValues | None = None
    """Of the cross-attention: one row a sentence, computed once."""

    def extend_(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add those of the newest token to :attr:`target`.

        Args:
            keys: Shape (rows, heads, 1, D / heads).
            values: Shape (rows, heads, 1, D / heads).

        Returns:
            The keys and values of all tokens with the room after them, shape (rows, heads, length,
            D / heads), and the mask that hides this room.
        """
        if self.length % _ROOM == 0:
            room = (0, 0, 0, _ROOM)
            empty = KeysValues(keys[:, :, :0], values[:, :, :0])
            self.target = KeysValues(*(F.pad(buffer, room) for buffer in self.target or empty))
            mask = keys.new_empty(1, 0) if self.mask is None else self.mask
            self.mask = F.pad(mask, (0, _ROOM), value=-torch.inf)
        assert self.target is not None
        assert self.mask is not None
        self.target.keys[:, :, self.length] = keys[:, :, 0]
        self.target.values[:, :, self.length] = values[:, :, 0]
        self.mask[:, self.length] = 0
        self.length += 1
        return *self.target, self.mask

    def reorder_target_(self, index: Tensor, spare: Tensor | None) -> Tensor | None:
        """Let row i of :attr:`target` become what row ``index[i]`` was.

        Args:
            index: Shape (rows,), int64.
            spare: A buffer to move to, if it is large enough.

        Returns:
            A buffer that it moved out of.
        """
        if self.target is None:
            return spare
        moved = []
        for old in self.target:
            if spare is None or len(spare) < len(index) or spare.shape[1:] != old.shape[1:]:
                spare = old.new_empty(len(index), *old.shape[1:])
            moved.append(torch.index_select(old, 0, index, out=spare[: len(index)]))
            spare = old
        self.target = KeysValues(*moved)
        return spare


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

    def reorder_target_(self, index: Tensor) -> None:
        """Let hypothesis i become what hypothesis ``index[i]`` was.

        Args:
            index: Rows to go on with, shape (rows,), int64; some may be repeated or left out.
        """
        for layer in self.layers:
            # One buffer more than they need goes from layer to layer.
            self._spare = layer.reorder_target_(index, self._spare)

    def reorder_source_(self, index: Tensor) -> None:
        """Let source row i become what source row ``index[i]`` was; see :meth:`reorder_target_`."""
        for layer in self.layers:
            if layer.source is not None:
                layer.source = KeysValues(*(kept.index_select(0, index) for kept in layer.source))
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, index)
