"""Every residual style trains."""

import numpy as np
import pytest
import torch
from _helpers.native_models import build
from torch.nn import functional as F

from admin_init.nn import (
    RESIDUAL_STYLES,
)

EOS = 2


# B2T's option starts with smaller weights, and needs more updates than a test has.
@pytest.mark.parametrize("residual", sorted(set(RESIDUAL_STYLES) - {"b2t-scaled"}))
def test_learns_to_copy(residual: str) -> None:
    model = build(residual, dim=32, ffn_dim=64)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    losses: list[float] = []
    # log 8 = 2.08 is what a word costs that is not read off the source.
    while np.mean(losses[-10:] or [2.08]) > 0.8:
        assert len(losses) < 150, losses[::20]
        words = torch.randint(4, 12, (32, 4), generator=generator)
        ends = words.new_full((32, 1), EOS)
        logits = model(torch.cat([words, ends], 1), torch.cat([ends, words], 1))
        loss = F.cross_entropy(logits.flatten(0, 1), torch.cat([words, ends], 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())


@pytest.mark.parametrize("kind", ["2-2", "0-2", "2-0"])
@pytest.mark.parametrize("residual", sorted(RESIDUAL_STYLES))
def test_every_style_trains(residual: str, kind: str) -> None:
    """A small model learns a batch by heart: every parameter moves, the loss halves."""
    model = build(residual, *map(int, kind.split("-")))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    source, target = torch.randint(4, 20, (2, 4, 6), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses: list[float] = []

    def still() -> list[str]:
        parameters = model.named_parameters()
        return [n for n, p in parameters if p.requires_grad and torch.equal(p, before[n])]

    while len(losses) < 2 or losses[-1] >= losses[0] / 2 or still():
        assert len(losses) < 40, (losses, still())
        logits = model(source, target) if kind == "2-2" else model(source)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
