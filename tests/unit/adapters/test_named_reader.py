"""Branches that no module shows as they enter the sum, measured against the sub-layer's input."""

import dataclasses
from typing import Any

import pytest
import torch
from _helpers.small_named import ATTENTION, PATTERNS, D, Layer, Model, sites_of
from torch import Tensor, nn

import admin_init
from admin_init import UnsupportedModelError
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


SEEN_BY_ITS_READER = SitePattern(
    branch="encoder.layers.*.fc2",
    linear="encoder.layers.*.fc2",
    norm="encoder.layers.*.norm",
    reader="encoder.layers.*.fc1",
)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_reader_shows_the_branch_as_it_enters_the_sum(x: Tensor, in_place: bool) -> None:
    model = Model(1)
    model.encoder.layers = nn.ModuleList([FunctionalDropout()])
    entered: list[Tensor] = []
    layer: Any = model.encoder.layers[0]
    layer.in_place = in_place
    layer.register_forward_hook(lambda *_: entered.append(layer.seen))
    sites = named_sites(model, [ATTENTION, SEEN_BY_ITS_READER])
    profile = admin_init.profile(model, [x], sites=sites)
    ffn = profile.sites[1]
    # The branch was divided by omega before its dropout.
    expected = (entered[0] * ffn.omega).var(correction=0).item()
    assert ffn.variance == pytest.approx(expected, rel=1e-5)
    blind = named_sites(model, [ATTENTION, dataclasses.replace(SEEN_BY_ITS_READER, reader=None)])
    assert admin_init.profile(model, [x], sites=blind).sites[1].variance < 0.7 * expected


def test_a_reader_may_take_its_input_by_keyword(x: Tensor) -> None:
    class ByKeyword(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x = self.attention_norm(x + self.attention(x=x)[0])
            y: Tensor = self.norm(x + self.dropout(self.fc2(self.fc1(input=x).relu())))
            return y

    model = Model()
    model.encoder.layers = nn.ModuleList([ByKeyword()])
    readers = ("encoder.layers.*.attention", "encoder.layers.*.fc1")
    seen = [
        dataclasses.replace(pattern, reader=reader)
        for pattern, reader in zip(PATTERNS, readers, strict=True)
    ]
    torch.manual_seed(5)
    expected = admin_init.profile(model, [x], sites=sites_of(model))
    torch.manual_seed(5)
    found = admin_init.profile(model, [x], sites=named_sites(model, seen))
    for one, other in zip(found.sites, expected.sites, strict=True):
        assert one.variance == pytest.approx(other.variance, rel=1e-5)
        assert one.shortcut_variance == pytest.approx(other.shortcut_variance, rel=1e-5)


def test_a_reader_that_does_not_run_is_named(x: Tensor) -> None:
    model = Model()
    model.encoder.layers[0].idle = nn.Linear(D, D)  # type: ignore[index,union-attr]
    model.encoder.layers[1].idle = nn.Linear(D, D)  # type: ignore[index,union-attr]
    pattern = dataclasses.replace(SEEN_BY_ITS_READER, reader="encoder.layers.*.idle")
    with pytest.raises(UnsupportedModelError, match=r"`reader` of `encoder.layers.0.fc2`, a Lin"):
        admin_init.profile(model, [x], sites=named_sites(model, [ATTENTION, pattern]))
