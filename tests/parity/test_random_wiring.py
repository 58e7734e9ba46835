"""Discovery in random modules, whose residual connections are known by construction."""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from _helpers.random_wiring.model import TOKENS, Model, Wiring, leaves
from _helpers.random_wiring.parts import D
from _helpers.random_wiring.strategies import wirings
from _helpers.random_wiring.sub_layer import ByHand, Sub
from _helpers.random_wiring.truth import Truth, truth_of
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import admin_init
from admin_init import FoldError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites

STREAM = "its shortcut is itself a sum of a shortcut and a branch"


def build(wiring: Wiring) -> tuple[Model, Tensor]:
    torch.manual_seed(0)
    model = Model(wiring).double()
    if wiring.inputs == "floats":
        return model, torch.randn(3, 5, D, dtype=torch.float64)
    return model, torch.randint(TOKENS, (3, 5))


class FoundTooMuchError(Exception):
    """Something was found that is not there."""


@contextmanager
def by_hand(model: Model, hand: ByHand) -> Iterator[None]:
    hand.again()
    modules = [module for module in model.modules() if isinstance(module, Model | Sub)]
    for module in modules:
        module.hand = hand
    yield
    for module in modules:
        module.hand = None


@torch.no_grad()
def run(model: Model, x: Tensor, hand: ByHand | None = None) -> list[Tensor]:
    torch.manual_seed(1)
    if hand is None:
        return leaves(model(x.clone()))
    with by_hand(model, hand):
        return leaves(model(x.clone()))


def found_sites(model: Model, x: Tensor) -> tuple[dict[str, str | None], str]:
    """Return each site with the one before, and what was said about others."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            sites = find_sites(model, x)
        except UnsupportedModelError as error:
            return {}, str(error)
    before = {site.name: None if site.previous is None else site.previous.name for site in sites}
    return before, " ".join(str(warning.message) for warning in said)


def check_found(model: Model, truth: Truth, x: Tensor) -> None:
    found, said = found_sites(model, x)
    names = {c.key: name for name, c in truth.served.items()}
    expected = {name: names.get(truth.previous[c.key] or "") for name, c in truth.served.items()}
    assert found == expected, said
    for name, reason in truth.refused:
        assert re.search(f"`{re.escape(name)}`: [^;]*{reason}", said), (name, reason, said)
    listed = len({name for name, _ in truth.refused})
    if truth.refused and truth.served:
        assert f"leaves {listed} Post-LN" in said
    elif truth.refused:
        assert f"none of the {listed} Post-LN" in said
    elif not truth.served:
        message = f"The {truth.pre} residual" if truth.pre else "computes no residual connection"
        assert message in said


def check_rescaled(model: Model, truth: Truth, x: Tensor) -> None:
    hand = ByHand(truth.previous)
    run(model.train(), x, hand)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = admin_init.profile(model, [x.clone()])
    for site in profile.sites:
        key = truth.served[site.name].key
        measured = (site.shortcut_variance, site.variance)
        assert measured == pytest.approx(hand.variances[key], rel=1e-9), site.name
        assert site.omega == pytest.approx(hand.omegas[key], rel=1e-9), site.name
    admin_init.apply_(model, profile)
    torch.testing.assert_close(
        run(model.eval(), x), run_plain(model, x, hand), rtol=1e-9, atol=1e-9
    )


def run_plain(model: Model, x: Tensor, hand: ByHand) -> list[Tensor]:
    plain, _ = build(model.wiring)
    return run(plain.eval(), x, hand)


def check_fold(model: Model, truth: Truth, x: Tensor) -> str:
    for name, parameter in model.named_parameters():
        if name.endswith("omega"):
            torch.nn.init.uniform_(parameter, 1, 2)
    expected = run(model, x)
    try:
        admin_init.fold_(model)
    except FoldError as error:
        refused = str(error)
        assert truth.unfoldable, refused
        assert all(f"`{name}`" in refused for name in truth.unfoldable), refused
        result = "fold refused"
    else:
        assert not truth.unfoldable
        result = "folded"
    torch.testing.assert_close(run(model, x), expected, rtol=1e-9, atol=1e-9)
    return result


def check(wiring: Wiring) -> Counter[str]:
    model, x = build(wiring)
    truth = truth_of(model)
    found, said = found_sites(model, x)
    if extra := set(found) - set(truth.served):
        raise FoundTooMuchError(f"{extra} in {wiring}")
    if STREAM in said:
        # x is a sum that no norm reads alone, so whether a norm of the next is Post-LN is open.
        return Counter(models=1, streams=1)
    check_found(model, truth, x)
    kinds = Counter(models=1, served=len(truth.served), refused=len(truth.refused), pre=truth.pre)
    for _, reason in truth.refused:
        kinds[reason] += 1
    if truth.served:
        check_rescaled(model, truth, x)
        kinds[check_fold(model, truth, x)] += 1
    return kinds


quiet = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=60, **quiet)
@given(wirings())
def test_random_modules(wiring: Wiring) -> None:
    check(wiring)


@pytest.mark.slow
def test_a_thousand_random_modules(capsys: pytest.CaptureFixture[str]) -> None:
    total: Counter[str] = Counter()

    @settings(max_examples=1000, **quiet)
    @given(wirings())
    def run_all(wiring: Wiring) -> None:
        try:
            total.update(check(wiring))
        except AssertionError:
            total.update(models=1, otherwise=1)

    run_all()
    with capsys.disabled():
        sys.stdout.write("".join(f"\n{count:6d} {what}" for what, count in total.most_common()))
    assert total["models"] >= 1000
    assert total["otherwise"] <= 0.1 * total["models"]
