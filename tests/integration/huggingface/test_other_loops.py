"""Admin in loops of Lightning Fabric and of accelerate: trained, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.plain_post_ln import D, Einsum, Stack
from accelerate import Accelerator
from lightning.fabric import Fabric
from torch import Tensor, nn

import admin_init

BATCHES = torch.randn(4, 3, 5, D, generator=torch.Generator().manual_seed(0))


def stack() -> Stack:
    torch.manual_seed(1)
    return Stack(Einsum).eval()


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(admin_init.parameter_groups(model, weight_decay=0.1), lr=1e-2)


def run(model: Any, updates: Any, backward: Callable[[Tensor], object], batches: Tensor) -> None:
    for batch in batches:
        updates.zero_grad()
        backward((model(batch) - 1).square().mean())
        updates.step()


def with_fabric(path: Path, model: Stack, *, load: bool, batches: Tensor) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, updates = fabric.setup(model, optimizer(model))
    state = {"model": wrapped, "optimizer": updates}
    if load:
        fabric.load(path / "state.ckpt", state)
    run(wrapped, updates, fabric.backward, batches)
    fabric.save(path / "state.ckpt", state)


def with_accelerate(path: Path, model: Stack, *, load: bool, batches: Tensor) -> None:
    accelerator = Accelerator(cpu=True)
    wrapped, updates = accelerator.prepare(model, optimizer(model))
    if load:
        accelerator.load_state(str(path))
    run(wrapped, updates, accelerator.backward, batches)
    accelerator.save_state(str(path))


@pytest.mark.parametrize("loop", [with_fabric, with_accelerate])
def test_a_run_that_was_saved_goes_on_as_if_it_had_not_stopped(
    loop: Callable[..., None], tmp_path: Path
) -> None:
    whole, first, second = stack(), stack(), stack()
    profiles = [admin_init.initialize_(model, BATCHES[0]) for model in (whole, first)]
    assert profiles[0] == profiles[1]
    loop(tmp_path / "whole", whole, load=False, batches=BATCHES)
    loop(tmp_path, first, load=False, batches=BATCHES[:2])
    admin_init.install_(second, sites=admin_init.find_sites(second, BATCHES[0]))
    loop(tmp_path, second, load=True, batches=BATCHES[2:])
    weights, others = whole.state_dict(), second.state_dict()
    assert any(name.endswith("omega") for name in weights)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert not torch.equal(weights["layers.1.dropout.omega"], first.layers[1].dropout.omega)  # type: ignore[union-attr, arg-type]
