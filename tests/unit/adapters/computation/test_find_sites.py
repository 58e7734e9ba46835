"""Residual sites found by what a model computes."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers.plain_post_ln import (
    SUB_LAYERS,
    Alpha,
    Averaged,
    D,
    Einsum,
    FunctionalNorm,
    FunctionalRootMeanSquare,
    Scaled,
    Stack,
    SubLayer,
)
from torch import Tensor, nn

import admin_init
from admin_init import AdminProfile, ProfileError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites

kinds = pytest.mark.parametrize("kind", SUB_LAYERS, ids=lambda kind: kind.__name__)


@kinds
def test_each_way_to_write_a_sub_layer_is_found(kind: Callable[[], SubLayer], x: Tensor) -> None:
    sites = find_sites(Stack(kind), x)
    assert [site.name for site in sites] == [f"layers.{i}.{SUB_LAYERS[kind]}" for i in range(3)]
    assert [site.previous for site in sites] == [None, *sites[:-1]]
    assert {site.width for site in sites} == {D}
    assert {site.stack for site in sites} == {"layers"}


def connect(layer: Any, x: Tensor, branch: Tensor, omega: Tensor) -> tuple[Tensor, ...]:
    """Return x and f(x), as they are added, and the output of a sub-layer with omega."""
    if isinstance(layer, Scaled):
        x, branch = 1.5 * x, layer.gain * branch
    if isinstance(layer, Alpha):
        branch = 0.5 * branch
    total = x + branch / omega
    if isinstance(layer, Averaged):
        total = nn.functional.dropout(total * 0.5**0.5, 0.1, layer.training)
    if isinstance(layer, FunctionalRootMeanSquare):
        return x, branch, nn.functional.rms_norm(total, (D,), layer.gain)
    if isinstance(layer, FunctionalNorm):
        return x, branch, nn.functional.layer_norm(total, (D,), layer.gain)
    return x, branch, layer.norm(total)


@kinds
def test_omegas_are_those_of_the_rule_by_hand(kind: Callable[[], SubLayer], x: Tensor) -> None:
    torch.manual_seed(0)
    model = Stack(kind).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    h, omega = x.double(), torch.ones((), dtype=torch.float64)
    torch.manual_seed(2)
    profile = admin_init.profile(model, [h])
    torch.manual_seed(2)
    for layer, site in zip(model.layers, profile.sites, strict=True):
        with torch.no_grad():
            shortcut, branch, h = connect(layer, h, layer.branch(h), omega)  # type: ignore[operator]
        variances = [t.var(correction=0).item() for t in (shortcut, branch)]
        assert [site.shortcut_variance, site.variance] == pytest.approx(variances, rel=1e-12)
        assert site.omega == pytest.approx(omega.item(), rel=1e-12)
        omega = (omega**2 * shortcut.var(correction=0) + branch.var(correction=0)).sqrt()


@kinds
def test_omega_divides_the_branch(kind: Callable[[], SubLayer], x: Tensor) -> None:
    model = Stack(kind, 1).double().eval()
    layer: Any = model.layers[0]
    branch = layer.branch(x.double())
    (site,) = find_sites(model, x.double())
    admin_init.install_(model, sites=[site])
    assert site.omega is not None
    for omega in (torch.ones(D).double(), torch.linspace(1, 3, D).double()):
        with torch.no_grad():
            site.omega.copy_(omega)
        *_, expected = connect(layer, x.double(), branch, omega)
        torch.testing.assert_close(model(x.double()), expected)


@kinds
def test_a_fold_keeps_the_outputs(kind: Callable[[], SubLayer], x: Tensor) -> None:
    model = Stack(kind).double().eval()
    plain = set(model.state_dict())
    admin_init.initialize_(model, x.double())
    for site in find_sites(model):
        assert site.omega is not None
        nn.init.uniform_(site.omega, 1, 3)
    expected = model(x.double())
    admin_init.fold_(model)
    torch.testing.assert_close(model(x.double()), expected)
    assert set(model.state_dict()) == plain


def test_sites_are_found_again_without_a_batch(x: Tensor) -> None:
    model = Stack(Einsum)
    with pytest.raises(UnsupportedModelError, match=r"`admin_init.find_sites\(model, batch\)`"):
        find_sites(model)
    profile = admin_init.initialize_(model, x)
    expected = [site.name for site in profile.sites]
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    around = nn.Sequential(nn.Identity(), copy.deepcopy(model))
    for other, prefix in ((model, ""), (copied, ""), (pickled, ""), (around, "1.")):
        sites = find_sites(other)
        assert [site.name for site in sites] == [prefix + name for name in expected]
        assert [site.previous for site in sites] == [None, *sites[:-1]]
        assert [site.omega is not None for site in sites] == [True] * 3
        admin_init.fold_(other.eval())
        assert not any("omega" in key for key in other.state_dict())
        with pytest.raises(UnsupportedModelError):
            find_sites(other)


@pytest.mark.parametrize("prefixes", [("", ""), ("", "1."), ("1.", "")])
def test_a_saved_profile_fits_a_model_with_another_prefix(
    x: Tensor, prefixes: tuple[str, str]
) -> None:
    def build(prefix: str) -> nn.Module:
        torch.manual_seed(0)
        model = Stack(Einsum).eval()
        return nn.Sequential(nn.Identity(), model) if prefix else model

    profiled, applied = map(build, prefixes)
    admin_init.profile(profiled, [x]).save("profile.json")
    profile = AdminProfile.load("profile.json")
    admin_init.apply_(applied, profile)
    admin_init.apply_(profiled, profile)
    torch.testing.assert_close(applied(x), profiled(x))
    with pytest.raises(ProfileError, match=r"does not fit this model.*Profile this model"):
        admin_init.apply_(Stack(SubLayer), profile)


def test_a_pass_leaves_no_trace(x: Tensor) -> None:
    class Counting(SubLayer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))
            self.seen: list[Tensor] = []

        def branch(self, x: Tensor) -> Tensor:
            self.passes += 1
            self.seen.append(x)
            return nn.functional.dropout(super().branch(x), 0.5)

    model = Stack(Counting).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    state = torch.get_rng_state()
    find_sites(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for module, then in zip(model.modules(), attributes, strict=True):
        assert {key: str(value) for key, value in vars(module).items()} == {
            key: str(value) for key, value in then.items()
        }
    assert not any(module._forward_hooks for module in model.modules())
