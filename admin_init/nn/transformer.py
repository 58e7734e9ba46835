"""An encoder-decoder Transformer with selectable residual connections.

Shapes: N sentences, S source tokens, T target tokens, D channels, V token ids.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from admin_init.nn.attention import any_padding, padding_before_tokens
from admin_init.nn.cache import DecoderCache
from admin_init.nn.config import TransformerConfig
from admin_init.nn.embedding import input_embedding, token_embedding
from admin_init.nn.initialization import initialize_, scale_branches_
from admin_init.nn.stacks import TransformerDecoder, TransformerEncoder


class EncoderOutput(NamedTuple):
    """Output of the encoder."""

    states: Tensor
    """Hidden states, shape (N, S, D)."""

    padding: Tensor | None
    """True for padding in the source, shape (N, S), or None if nothing is padded."""


class Transformer(nn.Module):
    """Encoder-decoder Transformer (Vaswani et al., arXiv 1706.03762).

    Args:
        config: Shape of the model, with layers in both stacks.

    Raises:
        ValueError: A stack has no layers, or ``vocabulary_size`` is None.

    Examples:
        >>> config = TransformerConfig(vocabulary_size=100, dim=64, residual="admin")
        >>> model = Transformer(config)
        >>> source, target_input = torch.randint(4, 100, (2, 8)), torch.randint(4, 100, (2, 9))
        >>> model(source, target_input).shape
        torch.Size([2, 9, 100])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if not (config.encoder_layers and config.decoder_layers):
            raise ValueError(
                "An encoder-decoder Transformer must have layers in both stacks, but has "
                f"`encoder_layers` = {config.encoder_layers} and `decoder_layers` = "
                f"{config.decoder_layers}. For one stack alone, build a `LanguageModel` (decoder) "
                "or a `MaskedLanguageModel` (encoder)."
            )
        self.config = config
        source_tokens = token_embedding(config)
        shared = config.share_embeddings == "all"
        target_tokens = source_tokens if shared else token_embedding(config)
        self.encoder_embedding = input_embedding(config, source_tokens)
        self.encoder = TransformerEncoder(config)
        self.decoder_embedding = input_embedding(config, target_tokens)
        self.decoder = TransformerDecoder(config)
        self.output_proj = nn.Linear(config.dim, source_tokens.num_embeddings, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize all weights; also needed after building the model on the meta device."""
        initialize_(self, self.config.initialization)
        if self.config.share_embeddings == "none":
            nn.init.normal_(self.output_proj.weight, std=self.config.dim**-0.5)
        else:
            self.output_proj.weight = self.decoder_embedding.tokens.weight
        shared = self.config.share_embeddings == "all"
        self.encoder.style.initialize_(self.encoder, self.encoder_embedding)
        self.decoder.style.initialize_(self.decoder, None if shared else self.decoder_embedding)
        scale_branches_(self, self.config.branch_scale)

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
        padding_or_none = padding if any_padding(padding) else None
        states = self.encoder(self.encoder_embedding(source), padding_or_none)
        return EncoderOutput(states, padding_or_none)

    def decode(
        self, target_input: Tensor, encoded: EncoderOutput, cache: DecoderCache | None = None
    ) -> Tensor:
        """Run the decoder on whole targets, or with a cache on their newest tokens.

        Args:
            target_input: The target, shifted right, shape (N, T); with a cache, (N, 1). int64.
            encoded: Output of :meth:`encode`. With a cache, it is only read in the first step.
            cache: A cache from :meth:`new_cache`, to which this step is added. Decoding with a
                cache computes no gradients.

        Returns:
            Logits, shape (N, T, V).

        Raises:
            ValueError: A cache is given and ``target_input`` has more than one token per row.
        """
        if cache is not None:
            return self._decode_newest(target_input, encoded, cache)
        padding = padding_before_tokens(target_input.eq(self.config.padding_idx))
        x = self.decoder(self.decoder_embedding(target_input), *encoded, padding)
        logits: Tensor = self.output_proj(x)
        return logits

    @torch.no_grad()
    def _decode_newest(self, newest: Tensor, encoded: EncoderOutput, cache: DecoderCache) -> Tensor:
        if newest.shape[1] != 1:
            raise ValueError(
                "With a cache, `target_input` must have only the newest token of each row, shape "
                f"(N, 1), but has the shape {tuple(newest.shape)}."
            )
        x = self.decoder_embedding(newest, offset=cache.length)
        logits: Tensor = self.output_proj(self.decoder(x, *encoded, cache=cache))
        return logits

    def new_cache(self) -> DecoderCache:
        """Make an empty cache for :meth:`decode`."""
        return DecoderCache(len(self.decoder.layers))
