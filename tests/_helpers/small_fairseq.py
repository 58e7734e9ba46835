"""fairseq models of a few channels, for the tests of their adapter."""

from argparse import Namespace
from typing import Any

import torch
from torch import Tensor, nn

import admin_init.fairseq  # noqa: F401

from fairseq.data import Dictionary  # isort: skip
from fairseq.models.transformer import TransformerConfig, TransformerModelBase  # isort: skip
from fairseq.models.transformer_lm import (  # isort: skip
    TransformerLanguageModel,
    TransformerLanguageModelConfig,
)

D = 16
_SHAPE = {"embed_dim": D, "ffn_embed_dim": 24, "attention_heads": 4, "layers": 2}
_ENDS = {"decoder_input_dim": D, "decoder_output_dim": D, "dropout": 0.0}

Batch = tuple[Tensor, Tensor, Tensor]
"""Source tokens, source lengths and target tokens, as the model takes them."""


def options(**changes: Any) -> Namespace:
    shape = {f"{stack}_{k}": v for stack in ("encoder", "decoder") for k, v in _SHAPE.items()}
    return Namespace(**shape | _ENDS | changes)


def config(**changes: Any) -> Any:
    return TransformerConfig.from_namespace(options(**changes))


def transformer(**changes: Any) -> Any:
    torch.manual_seed(0)
    return TransformerModelBase.build_model(config(**changes), _task())


def language_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {f"decoder_{k}": v for k, v in _SHAPE.items()} | {"max_target_positions": 20}
    return TransformerLanguageModel.build_model(
        TransformerLanguageModelConfig(**shape | _ENDS | changes), _task()
    )


def make_batch() -> Batch:
    torch.manual_seed(1)
    source, target = torch.randint(4, 16, (2, 3, 6))
    source[1, :2] = 1
    return source, torch.tensor([6, 4, 6]), target


def logits(model: nn.Module, batch: Batch) -> Tensor:
    output: Tensor = model(*batch)[0] if hasattr(model, "encoder") else model(batch[0])[0]
    return output


def _task() -> Namespace:
    words = Dictionary()
    for word in "abcdefghijkl":
        words.add_symbol(word)
    return Namespace(source_dictionary=words, target_dictionary=words)
