"""An encoder-decoder Transformer for translation, its residual connections a choice of style.

Shapes: N sentences, S source tokens, T target tokens, D channels, V token ids.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from admin_init.nn.attention import (
    Attention,
    CrossAttention,
    SelfAttention,
    causal_padding_mask,
    padding_mask,
)
from admin_init.nn.cache import DecoderCache, LayerCache
from admin_init.nn.config import TransformerConfig
from admin_init.nn.embedding import InputEmbedding
from admin_init.nn.feed_forward import FeedForward
from admin_init.nn.initialization import initialize_
from admin_init.nn.residual import Place, ResidualStyle, StackShape, State, residual_style


class EncoderOutput(NamedTuple):
    """What the encoder hands to the decoder."""

    states: Tensor
    """Shape (N, S, D)."""

    padding: Tensor | None
    """True where the source is padded, shape (N, S), or None where nothing is padded."""


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with its residual connection."""

    def __init__(self, config: TransformerConfig, style: ResidualStyle, index: int) -> None:
        super().__init__()
        self.self_attn = _attention(SelfAttention, config, style, index, "self_attn")
        self.self_attn_residual = style.connection(index, "self_attn")
        self.ffn = _feed_forward(config, style, index)
        self.ffn_residual = style.connection(index, "ffn")

    def forward(self, x: Tensor, mask: Tensor | None, state: State) -> Tensor:
        """Transform (N, S, D) to (N, S, D); ``mask`` is added to the attention logits."""
        x = self.self_attn_residual(x, partial(self.self_attn, mask=mask), state)
        output: Tensor = self.ffn_residual(x, self.ffn, state)
        return output


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each with its connection."""

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


class TransformerEncoder(nn.Module):
    """A stack of :class:`EncoderLayer`, on embedded tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.style = _style(config, "encoder")
        self.layers = nn.ModuleList(
            EncoderLayer(config, self.style, index) for index in range(config.encoder_layers)
        )
        self.end = self.style.end()

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x: Embedded source, shape (N, S, D).
            padding: True where the source is padded, shape (N, S).

        Returns:
            Shape (N, S, D).
        """
        mask = padding_mask(padding, x.dtype)
        state: State = {}
        for layer in self.layers:
            x = layer(x, mask, state)
        return x if self.end is None else self.end(x, state)


class TransformerDecoder(nn.Module):
    """A stack of :class:`DecoderLayer`, on embedded tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.style = _style(config, "decoder")
        self.layers = nn.ModuleList(
            DecoderLayer(config, self.style, index) for index in range(config.decoder_layers)
        )
        self.end = self.style.end()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        memory_padding: Tensor | None = None,
        padding: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Decode; every position sees itself and those before it.

        Args:
            x: Embedded target, shape (N, T, D); with a cache, its newest token only (T = 1).
            memory: The encoder's states, shape (N, S, D).
            memory_padding: True where the source is padded, shape (N, S).
            padding: True where the target is padded, shape (N, T). Only padding that precedes a
                token needs it.
            cache: Keys and values of the tokens before. From its second step on they stand in for
                ``memory`` and ``memory_padding``, which are not read any more.

        Returns:
            Shape (N, T, D).
        """
        caches: list[LayerCache] | list[None] = [None] * len(self.layers)
        if cache is None or cache.length == 0:
            memory_mask = padding_mask(memory_padding, x.dtype)
        else:
            memory_mask = cache.source_mask
        if cache is not None:
            caches = cache.layers
            cache.source_mask = memory_mask
            cache.length += 1
        mask = causal_padding_mask(padding, x.dtype)
        state: State = {}
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, memory, mask, memory_mask, state=state, cache=layer_cache)
        return x if self.end is None else self.end(x, state)


class Transformer(nn.Module):
    """Encoder-decoder Transformer (Vaswani et al., arXiv 1706.03762).

    Example::

        model = Transformer(TransformerConfig(vocabulary_size=10_000, residual="admin"))
        logits = model(source, target_input)
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        source_tokens = _token_embedding(config)
        shared = config.share_embeddings == "all"
        target_tokens = source_tokens if shared else _token_embedding(config)
        self.encoder_embedding = _input_embedding(config, source_tokens)
        self.encoder = TransformerEncoder(config)
        self.decoder_embedding = _input_embedding(config, target_tokens)
        self.decoder = TransformerDecoder(config)
        self.output_proj = nn.Linear(config.dim, source_tokens.num_embeddings, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all the weights anew; a model that was built on the meta device calls for it."""
        initialize_(self)
        if self.config.share_embeddings == "none":
            nn.init.normal_(self.output_proj.weight, std=self.config.dim**-0.5)
        else:
            self.output_proj.weight = self.decoder_embedding.tokens.weight
        shared = self.config.share_embeddings == "all"
        self.encoder.style.initialize_(self.encoder, self.encoder_embedding)
        self.decoder.style.initialize_(self.decoder, None if shared else self.decoder_embedding)

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Predict every next target token from the source and the target tokens before it.

        Args:
            source: Shape (N, S), int64, padded with ``padding_idx`` on either side.
            target_input: The target, shifted right: it starts with ``</s>``. Shape (N, T), int64.

        Returns:
            Logits, shape (N, T, V).
        """
        return self.decode(target_input, self.encode(source))

    def encode(self, source: Tensor) -> EncoderOutput:
        """Run the encoder.

        Args:
            source: Shape (N, S), int64, padded with ``padding_idx`` on either side.
        """
        padding = source.eq(self.config.padding_idx)
        padding_or_none = padding if _any(padding) else None
        states = self.encoder(self.encoder_embedding(source), padding_or_none)
        return EncoderOutput(states, padding_or_none)

    def decode(
        self, target_input: Tensor, encoded: EncoderOutput, cache: DecoderCache | None = None
    ) -> Tensor:
        """Run the decoder on whole targets, or with a cache on their newest tokens.

        Args:
            target_input: The target, shifted right, shape (N, T); with a cache, (N, 1). int64.
            encoded: What :meth:`encode` returned. A cache keeps what it needs of it: from the
                second step on, it is not read any more.
            cache: From :meth:`new_cache`; this step is added to it.

        Returns:
            Logits, shape (N, T, V).

        Raises:
            ValueError: More than one token a row were given with a cache.
        """
        if cache is None:
            padding = target_input.eq(self.config.padding_idx)
            before_a_token = padding[:, :-1] & ~padding[:, 1:]
            x = self.decoder_embedding(target_input)
            x = self.decoder(x, *encoded, padding if _any(before_a_token) else None)
        else:
            if target_input.shape[1] != 1:
                raise ValueError(
                    "`target_input` must hold only the newest token of each row, shape (N, 1), "
                    f"where a cache is given, but has the shape {tuple(target_input.shape)}."
                )
            x = self.decoder_embedding(target_input, offset=cache.length)
            x = self.decoder(x, *encoded, cache=cache)
        logits: Tensor = self.output_proj(x)
        return logits

    def new_cache(self) -> DecoderCache:
        """Make an empty cache for :meth:`decode`."""
        return DecoderCache(len(self.decoder.layers))


def _any(mask: Tensor) -> bool:
    # Reading the answer costs a wait for the device, once a pass, and buys attention without a
    # mask. A compiled graph cannot branch on it, and takes the mask.
    return torch.compiler.is_compiling() or bool(mask.any())


def _style(config: TransformerConfig, kind: Literal["encoder", "decoder"]) -> ResidualStyle:
    shape = StackShape(
        kind=kind,
        dim=config.dim,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
    )
    return residual_style(config.residual, shape)


def _attention(
    kind: type[Attention],
    config: TransformerConfig,
    style: ResidualStyle,
    index: int,
    place: Place,
) -> Attention:
    return kind(
        config.dim,
        config.heads,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        inner_norm=style.inner_norm(index, place, config.dim),
    )


def _feed_forward(config: TransformerConfig, style: ResidualStyle, index: int) -> FeedForward:
    return FeedForward(
        config.dim,
        config.ffn_dim,
        dropout=config.dropout,
        activation_dropout=config.activation_dropout,
        inner_norm=style.inner_norm(index, "ffn", config.ffn_dim),
    )


def _token_embedding(config: TransformerConfig) -> nn.Embedding:
    if config.vocabulary_size is None:
        raise ValueError("`vocabulary_size` must be set to build a model, but is None.")
    return nn.Embedding(config.vocabulary_size, config.dim, config.padding_idx)


def _input_embedding(config: TransformerConfig, tokens: nn.Embedding) -> InputEmbedding:
    return InputEmbedding(
        tokens,
        padding_idx=config.padding_idx,
        max_positions=config.max_positions,
        learned=config.positions == "learned",
        dropout=config.dropout,
    )
