"""Callbacks that train before the training, or end it early."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from _helpers.small_lightning import data, encoder, module, trainer
from _helpers.strategy_runs import FORMS
from torch.utils.data import DataLoader

from admin_init import AdminInit

TABLE = "Callbacks and settings"
each_form = pytest.mark.parametrize("form", FORMS)


def searched(lightning: ModuleType, form: str, *finders: Any) -> tuple[AdminInit, dict[str, Any]]:
    """Train after a search, on batches as large as the search has found them to be."""
    torch.manual_seed(2)
    model = module(lightning, model=encoder(dropout=0.0))
    model.batch_size = 8
    type(model).train_dataloader = lambda self: DataLoader(data().dataset, self.batch_size)
    admin = AdminInit(sites=FORMS[form])
    trainer(lightning, callbacks=[admin, *finders], max_steps=3).fit(model)
    return admin, model.state_dict()


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.support
@each_form
def test_training_after_a_search_of_the_learning_rate_is_as_without_it(
    form: str, lightning: ModuleType, cells: Callable[..., None]
) -> None:
    finder = lightning.callbacks.LearningRateFinder(num_training_steps=4, update_attr=False)
    with pytest.warns(UserWarning, match="searches at omega = 1"):
        admin, state = searched(lightning, form, finder)
    assert finder.optimal_lr is not None
    expected, without = searched(lightning, form)
    assert admin.profile == expected.profile
    assert same(state, without)
    cells(TABLE, "LearningRateFinder", outcome="warned of: it searches at omega = 1")


@pytest.mark.support
@each_form
def test_training_after_a_search_of_the_batch_size_is_as_without_it(
    form: str, lightning: ModuleType, cells: Callable[..., None]
) -> None:
    finder = lightning.callbacks.BatchSizeFinder(steps_per_trial=1, init_val=4, max_trials=2)
    admin, state = searched(lightning, form, finder)
    assert finder.optimal_batch_size == 8
    expected, without = searched(lightning, form)
    assert admin.profile == expected.profile
    assert same(state, without)
    cells(TABLE, "BatchSizeFinder", outcome="profiles after the search, on the batch it found")


@pytest.mark.support
@each_form
def test_early_stopping_looks_at_trained_batches(
    form: str, lightning: ModuleType, cells: Callable[..., None]
) -> None:
    stop = lightning.callbacks.EarlyStopping("loss", stopping_threshold=1e9)
    admin, model = AdminInit(sites=FORMS[form]), module(lightning)
    fit = trainer(lightning, callbacks=[admin, stop], max_epochs=3)
    fit.fit(model, data())
    assert admin.profile is not None
    assert fit.current_epoch == 1
    assert fit.callback_metrics["loss"] == model.outputs[-1]
    cells(TABLE, "EarlyStopping", outcome="yes")
