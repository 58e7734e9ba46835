"""Settings and outputs of the models whose checkpoints are read."""

from typing import Any

import torch
from torch import Tensor

from admin_init.nn import TransformerConfig
from admin_init.translation.model import TranslationModel


def config(residual: str = "post", **changed: Any) -> TransformerConfig:
    tiny: dict[str, Any] = {
        "vocabulary_size": 40,
        "dim": 16,
        "ffn_dim": 32,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.3,
        "residual": residual,
    }
    return TransformerConfig(**tiny | changed)


def logits(model: TranslationModel) -> Tensor:
    source = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    source[1, 5:] = 1
    with torch.no_grad():
        output: Tensor = model(source, source.flip(0))
    return output
