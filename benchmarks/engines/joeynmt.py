"""JoeyNMT: its Transformer and loss, in a plain loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from joeynmt.batch import Batch
from joeynmt.model import build_model
from joeynmt.transformer_layers import MultiHeadedAttention, PositionwiseFeedForward
from joeynmt.vocabulary import Vocabulary

from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from engines.loop import SMOOTHING, Loop, timed
from engines.tokens import BOS, EOS, PAD

SPECIALS = ("unk", "pad", "bos", "eos")
"""JoeyNMT's own order, which it insists on. The model asks for the padding only: that is 1."""


class Training(Loop):
    """Without their trainer, which reads corpora of its own."""

    def __init__(self, config: TransformerConfig, data: Path) -> None:
        logging.getLogger("joeynmt.model").setLevel(logging.ERROR)
        assert config.vocabulary_size is not None
        vocabulary = Vocabulary(
            [f"{i}" for i in range(len(SPECIALS), config.vocabulary_size)],
            SimpleNamespace(
                lang_tags=[],
                sep_token=None,
                **{f"{name}_token": f"<{name}>" for name in SPECIALS},
                **{f"{name}_id": i for i, name in enumerate(SPECIALS)},
            ),
        )
        sides: dict[str, Any] = {
            side: {
                "type": "transformer",
                "layer_norm": "post",
                "num_layers": getattr(config, f"{side}_layers"),
                "num_heads": config.heads,
                "hidden_size": config.dim,
                "ff_size": config.ffn_dim,
                "dropout": config.dropout,
                "embeddings": {"embedding_dim": config.dim, "scale": True},
            }
            for side in ("encoder", "decoder")
        }
        theirs = {**sides, "tied_embeddings": True, "tied_softmax": True}
        model = build_model(theirs, src_vocab=vocabulary, trg_vocab=vocabulary)
        model.loss_function = ("crossentropy", SMOOTHING)
        # Its one dropout is also that of attention and of the activation, where we have none.
        for module in model.modules():
            if isinstance(module, MultiHeadedAttention):
                module.dropout.p = 0.0
            elif isinstance(module, PositionwiseFeedForward):
                module.pwff_layer[2].p = 0.0
        super().__init__(model)

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        self.model.train()
        return timed(self.update, [_batch(batch) for batch in batches])

    def update(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        loss, *_ = self.model(return_type="loss", **vars(batch))
        batch.normalize(loss, "tokens").backward()
        self.optimizer.step()


def _batch(batch: TranslationBatch) -> Batch:
    return Batch(
        src=batch.source,
        src_length=batch.source.ne(PAD).sum(1),
        src_prompt_mask=None,
        trg=F.pad(batch.target, (1, 0), value=BOS),
        trg_prompt_mask=None,
        indices=batch.index,
        device=torch.device("cpu"),
        pad_index=PAD,
        eos_index=EOS,
    )
