"""Multi-head self-attention and cross-attention."""

from __future__ import annotations

from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.nn.cache import KeysValues, LayerCache
from admin_init.nn.dropout import dropout


def padding_mask(padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Convert a padding mask to a float mask to add to attention logits.

    Args:
        padding: True for padding, shape (N, S), or None if nothing is padded.
        dtype: Floating-point type of the logits.

    Returns:
        0 or -inf, shape (N, 1, 1, S), or None.
    """
    if padding is None:
        return None
    mask = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    return mask.masked_fill_(padding, float("-inf"))[:, None, None]


def causal_padding_mask(padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Convert a padding mask to a causal float mask that also hides the padding.

    Args:
        padding: True for padding, shape (N, T), or None if no padding precedes a token (the causal
            mask then hides all padding from tokens).
        dtype: Floating-point type of the logits.

    Returns:
        0 or -inf, shape (N, 1, T, T), or None.
    """
    if padding is None:
        return None
    length = padding.shape[1]
    ones = torch.ones(length, length, dtype=torch.bool, device=padding.device)
    # Padding attends to itself: a softmax over no key would be NaN.
    hidden = ones.triu(1) | (padding[:, None] & ~ones.triu().tril())
    mask = torch.zeros(hidden.shape, dtype=dtype, device=padding.device)
    return mask.masked_fill_(hidden, float("-inf"))[:, None]


def any_padding(mask: Tensor) -> bool:
    """Return whether a mask of shape (N, T) hides anything; True in a compiled graph."""
    # Attention is faster without a mask, which is worth one synchronization per stack. A compiled
    # graph cannot branch on data.
    return torch.compiler.is_compiling() or bool(mask.any())


def padding_before_tokens(padding: Tensor) -> Tensor | None:
    """Return ``padding`` if any of it precedes a token, else None.

    Args:
        padding: True for padding, shape (N, T).
    """
    return padding if any_padding(padding[:, :-1] & ~padding[:, 1:]) else None


class AttentionOptions(TypedDict, total=False):
    """Optional arguments of an attention."""

    dropout: float
    """Probability of dropping a channel of the output; 0 if left out."""

    attention_dropout: float
    """Probability of dropping an attention weight; 0 if left out."""

    inner_norm: nn.Module | None
    """Norm before the output projection; none if left out."""


class Attention(nn.Module):
    """Base class of self-attention and cross-attention.

    Args:
        dim: Number of channels D.
        heads: Number of heads; divides D.
        options: See :class:`AttentionOptions`.
    """

    def __init__(self, dim: int, heads: int, **options: Unpack[AttentionOptions]) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.dropout = options.get("dropout", 0.0)
        self.attention_dropout = options.get("attention_dropout", 0.0)
        self.inner_norm = options.get("inner_norm")
        self.out_proj = nn.Linear(dim, dim)

    def projections(self) -> dict[str, Tensor]:
        """Return views of the (D, D) weights ``query``, ``key``, ``value`` and ``output``."""
        raise NotImplementedError

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        causal: bool,
        cached: bool = False,
    ) -> Tensor:
        """Attend with every head and project to the output.

        Args:
            query: Shape (N, heads, T, D / heads).
            key: Shape (N, heads, S, D / heads).
            value: Shape (N, heads, S, D / heads).
            mask: Added to the logits; broadcasts to (N, heads, T, S).
            causal: Whether position t sees only the positions up to t; excludes ``mask``.
            cached: Whether keys and values come from a cache; there are then few queries.

        Returns:
            Shape (N, T, D).
        """
        dtype, on_cpu = query.dtype, query.device.type == "cpu"
        # The backward pass of torch's CPU kernel is four times slower in bfloat16 than in float32.
        wide = dtype == torch.bfloat16 and query.requires_grad and on_cpu
        if wide:
            query, key, value = query.float(), key.float(), value.float()
            mask = None if mask is None else mask.float()
        with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not wide):
            if cached and on_cpu and dtype.itemsize >= 4 and not self.training:
                # With few queries, torch's kernel takes twice as long as two matrix products.
                logits = query * self.head_dim**-0.5 @ key.transpose(2, 3)
                attended = torch.softmax(logits if mask is None else logits + mask, -1) @ value
            else:
                attended = F.scaled_dot_product_attention(
                    query,
                    key,
                    value,
                    attn_mask=mask,
                    dropout_p=self.attention_dropout if self.training else 0.0,
                    is_causal=causal,
                )
        x = attended.to(dtype).transpose(1, 2).flatten(2)
        if self.inner_norm is not None:
            x = self.inner_norm(x)
        return dropout(self.out_proj(x), self.dropout, self.training)

    def extra_repr(self) -> str:
        """Return the settings that ``print(model)`` shows."""
        return (
            f"heads={self.heads}, dropout={self.dropout}, "
            f"attention_dropout={self.attention_dropout}"
        )


class SelfAttention(Attention):
    """Attention of a sequence to itself; see :class:`Attention` for the arguments."""

    def __init__(self, dim: int, heads: int, **options: Unpack[AttentionOptions]) -> None:
        super().__init__(dim, heads, **options)
        self.in_proj = nn.Linear(dim, 3 * dim)

    def projections(self) -> dict[str, Tensor]:
        """See :class:`Attention`."""
        query, key, value = self.in_proj.weight.chunk(3)
        return {"query": query, "key": key, "value": value, "output": self.out_proj.weight}

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Attend to the sequence itself, or, with a cache, to all tokens so far.

        Args:
            x: Shape (N, T, D); with a cache, T is 1.
            mask: Added to the logits; broadcasts to (N, heads, T, T). Ignored with a cache.
            causal: Whether position t sees only the positions up to t; excludes ``mask``.
            cache: Keys and values of the previous tokens; those of this token are added.

        Returns:
            Shape (N, T, D).
        """
        packed = self.in_proj(x).unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind()
        if cache is not None:
            key, value, mask = cache.extend_(key, value)
        return self.attend(query, key, value, mask, causal=causal, cached=cache is not None)


class CrossAttention(Attention):
    """Attention to the encoder's output; see :class:`Attention` for the arguments."""

    def __init__(self, dim: int, heads: int, **options: Unpack[AttentionOptions]) -> None:
        super().__init__(dim, heads, **options)
        self.q_proj = nn.Linear(dim, dim)
        self.kv_proj = nn.Linear(dim, 2 * dim)

    def projections(self) -> dict[str, Tensor]:
        """See :class:`Attention`."""
        key, value = self.kv_proj.weight.chunk(2)
        return {
            "query": self.q_proj.weight,
            "key": key,
            "value": value,
            "output": self.out_proj.weight,
        }

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        *,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Attend to ``memory``.

        Args:
            x: Shape (N, T, D); with a cache, T is 1 and N may be a multiple of the cache's source
                rows.
            memory: The encoder's output, shape (N, S, D). Ignored if the cache has its keys and
                values.
            mask: Added to the logits; broadcasts to (N, heads, T, S).
            cache: Stores the keys and values of ``memory``.

        Returns:
            Shape (N, T, D).
        """
        if cache is not None and cache.source is not None:
            key, value = cache.source
        else:
            packed = self.kv_proj(memory).unflatten(-1, (2, self.heads, self.head_dim))
            key, value = packed.permute(2, 0, 3, 1, 4).unbind()
            if cache is not None:
                key, value = cache.source = KeysValues(key.contiguous(), value.contiguous())
        # All hypotheses of a sentence share its keys and values, so treat them as extra queries.
        query = self.q_proj(x).view(len(key), -1, self.heads, self.head_dim).transpose(1, 2)
        cached = cache is not None
        return self.attend(query, key, value, mask, causal=False, cached=cached).view(x.shape)
