"""Transformer layers with selectable residual connections.

Shapes: N sentences, S source tokens, T target tokens, D channels.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from admin_init.nn.attention import Attention, CrossAttention, SelfAttention
from admin_init.nn.cache import LayerCache
from admin_init.nn.config import TransformerConfig
from admin_init.nn.feed_forward import FeedForward
from admin_init.nn.residual import ResidualStyle, State, SublayerKind


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual connection."""

    def __init__(self, config: TransformerConfig, style: ResidualStyle, index: int) -> None:
        super().__init__()
        self.self_attn = _attention(SelfAttention, config, style, index, "self_attn")
        self.self_attn_residual = style.connection(index, "self_attn")
        self.ffn = _feed_forward(config, style, index)
        self.ffn_residual = style.connection(index, "ffn")

    def forward(
        self, x: Tensor, mask: Tensor | None, state: State, *, causal: bool = False
    ) -> Tensor:
        """Transform (N, S, D) to (N, S, D); ``mask`` is added to the attention logits."""
        self_attn = partial(self.self_attn, mask=mask, causal=causal)
        x = self.self_attn_residual(x, self_attn, state)
        output: Tensor = self.ffn_residual(x, self.ffn, state)
        return output


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward network, each with a residual connection."""

    def __init__(self, config: TransformerConfig, style: ResidualStyle, index: int) -> None:
        super().__init__()
        self.self_attn = _attention(SelfAttention, config, style, index, "self_attn")
        self.self_attn_residual = style.connection(index, "self_attn")
        self.cross_attn = _attention(CrossAttention, config, style, index, "cross_attn")
        self.cross_attn_residual = style.connection(index, "cross_attn")
        self.ffn = _feed_forward(config, style, index)
        self.ffn_residual = style.connection(index, "ffn")

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        memory_mask: Tensor | None,
        *,
        state: State,
        cache: LayerCache | None,
    ) -> Tensor:
        """Transform (N, T, D) to (N, T, D); see :meth:`TransformerDecoder.forward`."""
        causal = mask is None and cache is None
        self_attn = partial(self.self_attn, mask=mask, causal=causal, cache=cache)
        cross_attn = partial(self.cross_attn, memory=memory, mask=memory_mask, cache=cache)
        x = self.self_attn_residual(x, self_attn, state)
        x = self.cross_attn_residual(x, cross_attn, state)
        output: Tensor = self.ffn_residual(x, self.ffn, state)
        return output


def _attention(
    kind: type[Attention],
    config: TransformerConfig,
    style: ResidualStyle,
    index: int,
    sublayer: SublayerKind,
) -> Attention:
    return kind(
        config.dim,
        config.heads,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        inner_norm=style.inner_norm(index, sublayer, config.dim),
    )


def _feed_forward(config: TransformerConfig, style: ResidualStyle, index: int) -> FeedForward:
    return FeedForward(
        config.dim,
        config.ffn_dim,
        dropout=config.dropout,
        activation_dropout=config.activation_dropout,
        inner_norm=style.inner_norm(index, "ffn", config.ffn_dim),
    )
