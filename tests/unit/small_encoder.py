"""A small Post-LN encoder of torch.nn's, with gains, biases and omegas as after training."""

from typing import Any

import torch
from torch import nn

from admin_init.adapters.discovery import find_sites

D = 16


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(D, 4, 32, **{"dropout": 0.0, "batch_first": True, **options})


def encoder(layers: int = 3, **options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(**options), layers, enable_nested_tensor=False)
    disturb_(model)
    return model


def disturb_(model: nn.Module) -> None:
    """Leave no gain at 1 and no bias at 0, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                nn.init.xavier_uniform_(parameter)


def train_omegas_(model: nn.Module) -> None:
    """Give every trained omega channels of their own, of both signs."""
    for site in find_sites(model):
        assert site.omega is not None
        if site.omega.requires_grad:
            sign = torch.randint_like(site.omega.data, 2) * 2 - 1
            site.omega.data.uniform_(0.3, 4.0).mul_(sign)
