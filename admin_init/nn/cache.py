"""Cache of keys and values for decoding token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_ROOM = 4
"""Number of tokens by which a full buffer grows."""


class KeysValues(NamedTuple):
    """Keys and values, each of shape (rows, heads, length, D / heads)."""

    keys: Tensor
    values: Tensor


@dataclass
class LayerCache:
    """Keys and values of one decoder layer, without gradients.

    The target's keys and values are in buffers with room for more tokens: allocating a new tensor
    for every token takes longer than filling it, and matrix products of whole buffers are several
    times faster than those of slices. :attr:`mask` hides the empty positions.
    """

    target: KeysValues | None = None
    """Keys and values of the self-attention, one row per hypothesis; 0 from :attr:`length` on."""

    mask: Tensor | None = None
    """0 for the tokens in :attr:`target`, -inf for empty positions; shape (1, buffer length)."""

    length: int = 0
    """Number of tokens in :attr:`target`."""

    source: KeysValues | None = None
    """Keys and values of the cross-attention, one row per sentence, computed once."""

    def extend_(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the keys and values of the newest token to :attr:`target`.

        Args:
            keys: Shape (rows, heads, 1, D / heads).
            values: Shape (rows, heads, 1, D / heads).

        Returns:
            The buffers of keys and values, shape (rows, heads, length, D / heads), and the mask
            that hides their empty positions.
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
        """Replace row i of :attr:`target` by row ``index[i]``.

        Args:
            index: Shape (rows,), int64.
            spare: A buffer for the result, used if it is large enough.

        Returns:
            A buffer that is no longer used.
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
    """Keys and values of all layers of a decoder.

    The rows are hypotheses. All hypotheses of a sentence can share one source row; they must then
    be next to each other, and all sentences must have the same number of hypotheses.

    Args:
        layers: Number of decoder layers.
    """

    def __init__(self, layers: int) -> None:
        self.layers = [LayerCache() for _ in range(layers)]
        self.source_mask: Tensor | None = None
        self.length = 0
        self._spare: Tensor | None = None

    def reorder_target_(self, index: Tensor) -> None:
        """Replace hypothesis i by hypothesis ``index[i]``.

        Args:
            index: Rows to keep, shape (rows,), int64; rows may be repeated or left out.
        """
        for layer in self.layers:
            # All layers share one spare buffer.
            self._spare = layer.reorder_target_(index, self._spare)

    def reorder_source_(self, index: Tensor) -> None:
        """Replace source row i by source row ``index[i]``; see :meth:`reorder_target_`."""
        for layer in self.layers:
            if layer.source is not None:
                layer.source = KeysValues(*(kept.index_select(0, index) for kept in layer.source))
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, index)
