"""Branches that no module returns as they enter the sum."""

import dataclasses
from typing import Any

import pytest
import torch
from _helpers.small_named import ATTENTION, D, Layer, Model
from torch import Tensor, nn

import admin_init
from admin_init.adapters.patterns import SitePattern, named_sites


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


class FunctionalDropout(Layer):
    """Drops out what no module shows: between the branch's last module and the sum."""

    in_place = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention(x)[0])
        branch = self.fc2(self.fc1(x).relu())
        self.seen = nn.functional.dropout(branch, 0.5, self.training)
        y: Tensor = self.norm(x.add_(self.seen) if self.in_place else x + self.seen)
        return y


FFN = SitePattern(
    branch="encoder.layers.*.fc2",
    linear="encoder.layers.*.fc2",
    norm="encoder.layers.*.norm",
)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_branch_is_measured_as_it_enters_the_sum(x: Tensor, in_place: bool) -> None:
    model = Model(1)
    model.encoder.layers = nn.ModuleList([FunctionalDropout()])
    entered: list[Tensor] = []
    layer: Any = model.encoder.layers[0]
    layer.in_place = in_place
    layer.register_forward_hook(lambda *_: entered.append(layer.seen))
    for pattern in (FFN, dataclasses.replace(FFN, reader="encoder.layers.*.fc1")):
        sites = named_sites(model, [ATTENTION, pattern])
        ffn = admin_init.profile(model, [x], sites=sites).sites[1]
        # The branch was divided by omega before its dropout.
        expected = (entered.pop() * ffn.omega).var(correction=0).item()
        assert ffn.variance == pytest.approx(expected, rel=1e-5)
