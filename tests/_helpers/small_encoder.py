"""A small Post-LN encoder of torch.nn's, with gains, biases and omegas as after training."""

from typing import Any

import torch
from torch import nn

from _helpers.perturb import perturb_

D = 16


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(D, 4, 32, **{"dropout": 0.0, "batch_first": True, **options})


def encoder(layers: int = 3, **options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(**options), layers, enable_nested_tensor=False)
    return perturb_(model)
