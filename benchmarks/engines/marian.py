"""Hugging Face's Marian: in a plain loop, and its ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from engines import fairseq
from engines.loop import Loop
from engines.tokens import EOS, PAD


class Training(Loop):
    """Without their Trainer."""

    def __init__(self, config: TransformerConfig, data: Path) -> None:
        super().__init__(_build(config))

    def logits(self, batch: TranslationBatch) -> Tensor:
        logits: Tensor = self.model(
            input_ids=batch.source,
            attention_mask=batch.source.ne(PAD).long(),
            decoder_input_ids=batch.target_input,
            use_cache=False,
        ).logits
        return logits


class Search:
    """It stops where it has as many hypotheses as the beam is wide, like the others."""

    version = transformers.__version__

    def __init__(self, model: Transformer, data: Path, beam_size: int, max_length: int) -> None:
        self.model = _build(model.config).eval()
        self.model.model.load_state_dict(fairseq.converted(model).state_dict(), strict=False)
        self.model.tie_weights()
        table = model.encoder_embedding.positions.table  # type: ignore[union-attr]
        with torch.no_grad():
            for side in (self.model.model.encoder, self.model.model.decoder):
                # Ours number positions as fairseq does, from after the padding.
                side.embed_positions.weight.copy_(table[PAD + 1 :])
        self.options: dict[str, Any] = {
            "num_beams": beam_size,
            "max_new_tokens": max_length + 1,
            "min_new_tokens": 2,
            "early_stopping": True,
            "length_penalty": 1.0,
            "do_sample": False,
            "forced_eos_token_id": EOS,
            "bad_words_ids": [[PAD]],
        }

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        found: Tensor = self.model.generate(
            input_ids=batch.source, attention_mask=batch.source.ne(PAD).long(), **self.options
        )
        return [[*row[: row.index(EOS)], EOS] for row in found[:, 1:].tolist()]


def _build(config: TransformerConfig) -> Any:
    sides: dict[str, Any] = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "attention_heads": config.heads,
            "ffn_dim": config.ffn_dim,
            "layers": getattr(config, f"{side}_layers"),
        }.items()
    }
    theirs = MarianConfig(
        vocab_size=config.vocabulary_size,
        d_model=config.dim,
        dropout=config.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
        max_position_embeddings=config.max_positions,
        **sides,
    )
    return MarianMTModel(theirs)
