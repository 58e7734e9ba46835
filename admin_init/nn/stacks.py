"""Stacks of Transformer layers."""

from __future__ import annotations

from torch import Tensor, nn

from admin_init.nn.attention import causal_padding_mask, padding_mask
from admin_init.nn.cache import DecoderCache, LayerCache
from admin_init.nn.config import TransformerConfig
from admin_init.nn.layers import DecoderLayer, EncoderLayer
from admin_init.nn.residual import ResidualStyle, StackKind, StackShape, State, residual_style


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
        """Encode the embedded source.

        Args:
            x: Embedded source, shape (N, S, D).
            padding: True for padding in the source, shape (N, S).

        Returns:
            Shape (N, S, D).
        """
        mask = padding_mask(padding, x.dtype)
        state: State = {}
        for layer in self.layers:
            x = layer(x, mask, state)
        return x if self.end is None else self.end(x, state)


class CausalDecoder(nn.Module):
    """Stack of a decoder-only model: :class:`EncoderLayer` with a causal mask."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.style = _style(config, "decoder")
        self.layers = nn.ModuleList(
            EncoderLayer(config, self.style, index) for index in range(config.decoder_layers)
        )
        self.end = self.style.end()

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Decode; every position sees itself and the previous positions.

        Args:
            x: Embedded tokens, shape (N, T, D).
            padding: True for padding, shape (N, T). May be None if no padding precedes a token.

        Returns:
            Shape (N, T, D).
        """
        mask = causal_padding_mask(padding, x.dtype)
        state: State = {}
        for layer in self.layers:
            x = layer(x, mask, state, causal=mask is None)
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
        """Decode; every position sees itself and the previous positions.

        Args:
            x: Embedded target, shape (N, T, D); with a cache, its newest token only (T = 1).
            memory: The encoder's output, shape (N, S, D).
            memory_padding: True for padding in the source, shape (N, S).
            padding: True for padding in the target, shape (N, T). May be None if no padding
                precedes a token.
            cache: Keys and values of the previous tokens. From the second step on, it replaces
                ``memory`` and ``memory_padding``, which are then ignored.

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


def _style(config: TransformerConfig, kind: StackKind) -> ResidualStyle:
    shape = StackShape(
        kind=kind,
        dim=config.dim,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
    )
    return residual_style(config.residual, shape)
