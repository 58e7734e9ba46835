"""Models with omegas that are copied, pickled, traced and exported."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from _helpers.plain_post_ln import Stack
from _helpers.small_encoder import encoder

import admin_init


@pytest.mark.parametrize("build", [Stack, lambda: encoder(3)])
def test_all_of_them_compute_the_same(build: Any) -> None:
    model, x = build().eval(), torch.randn(2, 5, 16)
    admin_init.initialize_(model, x)
    expected = model(x)
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
    scripted = torch.jit.trace(admin_init.fold_(copy.deepcopy(model)), x, check_trace=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
    for other in (traced, torch.export.export(model, (x,)).module()):
        torch.testing.assert_close(other(x), expected)
    torch.testing.assert_close(scripted(x), expected, rtol=1e-4, atol=1e-5)
