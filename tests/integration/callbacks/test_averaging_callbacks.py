"""Callbacks that average weights copy the model before it is rescaled."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from _helpers.small_lightning import data, module, trainer, with_validation
from _helpers.strategy_runs import FORMS

from admin_init import AdminInit, AdminProfile, apply_
from admin_init.adapters.discovery import resolve_sites

AVERAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "weight averaging": ("WeightAveraging", {}),
    "EMA": ("EMAWeightAveraging", {"decay": 0.5}),
    "EMA that starts after the end": ("EMAWeightAveraging", {"update_starting_at_step": 99}),
    "SWA": ("StochasticWeightAveraging", {"swa_lrs": 0.1, "swa_epoch_start": 2}),
    "SWA that starts before the profile": (
        "StochasticWeightAveraging",
        {"swa_lrs": 0.1, "swa_epoch_start": 1},
    ),
}


def averaged(lightning: ModuleType, name: str, model: Any, *before: AdminInit) -> dict[str, Any]:
    """Train under an average, validations included, and return what it leaves."""
    kind, options = AVERAGES[name]
    average = getattr(lightning.callbacks, kind)
    fit = trainer(lightning, callbacks=[*before, average(**options)], max_epochs=3)
    fit.fit(with_validation(model), data(), data())
    state: dict[str, Any] = model.state_dict()
    return state


@pytest.mark.support
@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("form", FORMS)
def test_the_average_is_one_of_rescaled_models(
    form: str, name: str, lightning: ModuleType, cells: Callable[..., None]
) -> None:
    # With weight decay, so that the optimizers are alike.
    admin = AdminInit(sites=FORMS[form], weight_decay=True)
    ours = averaged(lightning, name, module(lightning), admin)
    rescaled = module(lightning)
    assert isinstance(admin.profile, AdminProfile)
    apply_(rescaled, admin.profile, sites=resolve_sites(rescaled, admin.sites))
    theirs = averaged(lightning, name, rescaled)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    cells("Callbacks and settings", name, outcome="as if rescaled before training, bit for bit")
