"""``torch.nn.Transformer``, in a plain loop."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from engines.loop import Loop
from engines.tokens import PAD


class Training(Loop):
    def __init__(self, config: TransformerConfig, data: Path) -> None:
        super().__init__(_Translator(config))

    def logits(self, batch: TranslationBatch) -> Tensor:
        logits: Tensor = self.model(batch.source, batch.target_input)
        return logits


class _Translator(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.vocabulary_size is not None
        self.tokens = nn.Embedding(config.vocabulary_size, config.dim, PAD)
        nn.init.normal_(self.tokens.weight, std=config.dim**-0.5)
        self.positions = nn.Embedding(config.max_positions, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            config.dim,
            config.heads,
            config.encoder_layers,
            config.decoder_layers,
            config.ffn_dim,
            config.dropout,
            batch_first=True,
        )
        for layer in (*self.transformer.encoder.layers, *self.transformer.decoder.layers):
            # Its one dropout is also that of attention and of the activation, where we have none.
            layer.dropout.p = layer.self_attn.dropout = 0.0
            if isinstance(layer, nn.TransformerDecoderLayer):
                layer.multihead_attn.dropout = 0.0
        # nn.Transformer ends each stack in a norm that no Post-LN paper has.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None

    def embed(self, tokens: Tensor) -> Tensor:
        positions = self.positions(torch.arange(tokens.shape[1]))
        embedded: Tensor = self.tokens(tokens) * self.tokens.embedding_dim**0.5 + positions
        return self.dropout(embedded)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        padding = source.eq(PAD)
        states: Tensor = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return states @ self.tokens.weight.T
