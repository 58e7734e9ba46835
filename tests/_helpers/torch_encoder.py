"""An encoder of torch.nn's, as torch builds it."""

from typing import Any

import torch
from torch import nn

D = 16


PADDING = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)


def encoder(
    layers: int = 2,
    kind: type[nn.TransformerEncoderLayer] = nn.TransformerEncoderLayer,
    **options: Any,
) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerEncoder(kind(D, 4, 32, **options), layers)
