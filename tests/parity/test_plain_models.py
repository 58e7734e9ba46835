"""Twelve Post-LN models in plain torch, untouched: found, profiled, rescaled and folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers.compared_by_hand import compared
from _helpers.enumerated_huggingface import randomize_
from _helpers.plain_models import MODELS
from torch import Tensor, nn
from torch.utils._pytree import tree_map


@pytest.mark.support
@pytest.mark.parametrize("name", MODELS)
def test_a_plain_model_is_served(name: str, cells: Callable[..., None]) -> None:
    torch.manual_seed(0)
    build, connections = MODELS[name]
    model, batch = build()
    model = randomize_(model.double()).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    served, columns = compared(model, tree_map(_in_float64, batch))
    assert served, columns
    assert columns["connections"] == connections
    assert "left out" not in columns
    cells("Models in plain torch", name, **columns)


def _in_float64(item: Any) -> Any:
    return item.double() if isinstance(item, Tensor) and item.is_floating_point() else item
