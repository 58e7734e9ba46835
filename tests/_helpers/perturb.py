"""Models as training leaves them, so that a swapped or forgotten parameter is seen."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

import admin_init
from admin_init import find_sites
from admin_init.sites import ResidualSite

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def perturb_(model: AnyModule, scale: float = 0.2) -> AnyModule:
    """Move gains off 1, biases off 0 and all else off its initial value, but not the omegas."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("omega"):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def train_omegas_(model: AnyModule, sites: Sequence[ResidualSite] | None = None) -> AnyModule:
    """Install omegas, and give every trained one channels of its own, of both signs."""
    generator = torch.Generator().manual_seed(3)
    sites = find_sites(model) if sites is None else sites
    admin_init.install_(model, sites=sites)
    for site in sites:
        assert site.omega is not None
        if site.omega.requires_grad:
            size = 0.3 + 3.7 * torch.rand(site.omega.shape, generator=generator)
            sign = torch.randint(2, site.omega.shape, generator=generator) * 2 - 1
            site.omega.data.copy_(size * sign)
    return model
