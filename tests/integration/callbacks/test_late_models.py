"""Models that are built, or get their memory, after the callbacks were set up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from _helpers.small_lightning import data, encoder, module, trainer
from _helpers.strategy_runs import FORMS
from torch import nn

from admin_init import AdminInit
from admin_init.adapters.discovery import resolve_sites


def built() -> nn.Module:
    torch.manual_seed(2)
    return encoder(dropout=0.0)


def on_meta_device() -> nn.Module:
    with torch.device("meta"):
        return encoder(dropout=0.0)


def fill_(model: nn.Module) -> None:
    """Initialize what the user knows of."""
    model.to_empty(device="cpu")
    for name, parameter in built().named_parameters():
        model.get_parameter(name).data.copy_(parameter)


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def trained(lightning: ModuleType, model: Any, *callbacks: Any) -> dict[str, Any]:
    run = trainer(lightning, callbacks=list(callbacks), max_steps=2)
    run.fit(model, data())
    optimized = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(parameter) for parameter in model.parameters()}
    assert not vars(model).keys() & {"setup", "configure_model", "configure_optimizers"}
    state: dict[str, Any] = model.state_dict()
    return state


@pytest.mark.support
@pytest.mark.parametrize("hook", ["setup", "configure_model"])
@pytest.mark.parametrize("meta", [False, True], ids=["built", "meta device"])
@pytest.mark.parametrize("form", FORMS)
def test_a_late_model_trains_as_an_early_one(
    form: str, meta: bool, hook: str, lightning: ModuleType, cells: Callable[..., None]
) -> None:
    late = module(lightning, model=on_meta_device() if meta else nn.Identity())

    def build(self: Any, stage: str | None = None) -> None:
        if meta:
            fill_(self.model)
        else:
            self.model = built()

    setattr(type(late), hook, build)
    ours, theirs = AdminInit(sites=FORMS[form]), AdminInit(sites=FORMS[form])
    state = trained(lightning, late, ours)
    expected = trained(lightning, module(lightning, model=built()), theirs)
    assert ours.profile == theirs.profile
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    row = f"meta device, to_empty in {hook}" if meta else f"built in {hook}"
    cells("Callbacks and settings", row, outcome="as if built before, bit for bit")


@pytest.mark.parametrize("form", FORMS)
def test_a_late_model_can_be_averaged(form: str, lightning: ModuleType) -> None:
    late = module(lightning, model=nn.Identity())

    def build(self: Any) -> None:
        if isinstance(self.model, nn.Identity):
            self.model = built()

    type(late).configure_model = build
    average = lightning.callbacks.EMAWeightAveraging(update_starting_at_step=99)
    admin = AdminInit(sites=FORMS[form])
    trained(lightning, late, admin, average)
    assert admin.profile is not None
    # No step was averaged: what is left is the model as the training began.
    for site, profiled in zip(resolve_sites(late, admin.sites), admin.profile.sites, strict=True):
        assert site.omega is not None
        assert torch.equal(site.omega, torch.full((16,), profiled.omega))
