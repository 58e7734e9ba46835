"""Models of admin_init.nn with a few channels."""

from typing import Any

import torch
from torch import nn

from admin_init.nn import (
    LanguageModel,
    MaskedLanguageModel,
    Transformer,
    TransformerConfig,
)


def build(
    residual: str, encoder_layers: int = 2, decoder_layers: int = 2, **options: Any
) -> nn.Module:
    torch.manual_seed(0)
    config = TransformerConfig(
        **{"vocabulary_size": 20, "dim": 16, "ffn_dim": 24, "heads": 4, "dropout": 0.0} | options,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        residual=residual,
    )
    if not decoder_layers:
        return MaskedLanguageModel(config)
    return Transformer(config) if encoder_layers else LanguageModel(config)
