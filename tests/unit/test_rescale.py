from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from _helpers.perturb import train_omegas_
from _helpers.small_encoder import D, encoder, layer
from torch import Tensor, nn

import admin_init
from admin_init import AdminProfile, ProfileError, SiteProfile, UnsupportedModelError
from admin_init.adapters.discovery import find_sites


def omegas(model: nn.Module) -> list[list[float]]:
    return [site.omega.tolist() for site in find_sites(model) if site.omega is not None]


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_install_changes_no_bit_of_the_output(x: Tensor, dtype: torch.dtype) -> None:
    model = encoder().to(dtype)
    x = x.to(dtype)
    expected = model(x)
    assert admin_init.install_(model) is model
    assert torch.equal(model(x), expected)
    for site in find_sites(model):
        assert site.omega is not None
        assert site.omega.dtype is dtype
        assert torch.equal(site.omega, torch.ones(D, dtype=dtype))


def test_install_changes_no_bit_under_autocast(x: Tensor) -> None:
    model = encoder()
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        assert torch.equal(admin_init.install_(model)(x), expected)


def test_install_twice_is_install_once(x: Tensor) -> None:
    model = admin_init.install_(encoder())
    train_omegas_(model)
    before, state = omegas(model), list(model.state_dict())
    admin_init.install_(model, trainable=False)
    assert omegas(model) == before
    assert list(model.state_dict()) == state
    assert [site.omega.requires_grad for site in find_sites(model)] == [False] + [True] * 5  # type: ignore[union-attr]


def test_omegas_are_parameters_of_the_state_dict() -> None:
    model = encoder(1)
    plain = set(model.state_dict())
    admin_init.install_(model)
    assert set(model.state_dict()) - plain == {
        "layers.0.self_attn_skip.omega",
        "layers.0.ffn_skip.omega",
    }


@pytest.mark.parametrize("trainable", [True, False])
def test_the_first_omega_of_each_stack_is_not_trained(trainable: bool) -> None:
    model = nn.Transformer(D, 4, 2, 1, 32)
    admin_init.install_(model, trainable=trainable)
    first = {"encoder.layers.0.self_attn", "decoder.layers.0.self_attn"}
    for site in find_sites(model):
        assert site.omega is not None
        assert site.omega.requires_grad == (trainable and site.name not in first)


def test_a_partly_installed_model_is_completed(x: Tensor) -> None:
    model = encoder()
    expected = model(x)
    admin_init.install_(model, sites=find_sites(model)[2:4])
    assert torch.equal(model(x), expected)
    assert [site.installed for site in find_sites(model)] == [False] * 2 + [True] * 2 + [False] * 2
    admin_init.install_(model)
    assert torch.equal(model(x), expected)
    assert [site.omega.requires_grad for site in find_sites(model)] == [False] + [True] * 5  # type: ignore[union-attr]


def test_gradients_reach_every_trained_omega(x: Tensor) -> None:
    model = admin_init.install_(encoder())
    model(x).square().sum().backward()
    for site in find_sites(model)[1:]:
        assert site.omega is not None
        assert site.omega.grad is not None
        assert (site.omega.grad != 0).all()


def test_apply_installs_and_fills(x: Tensor) -> None:
    model = encoder()
    profile = admin_init.profile(model, [x])
    assert admin_init.apply_(model, profile) is model
    expected = torch.tensor([[site.omega] * D for site in profile.sites])
    torch.testing.assert_close(torch.tensor(omegas(model)), expected)


class Prefixed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor) -> Any:
        return self.model(*args)


@pytest.mark.parametrize(
    "build",
    [
        lambda: encoder(1),
        lambda: encoder(2),
        lambda: nn.Transformer(D, 4, 1, 1, 32, 0.0, batch_first=True),
        lambda: nn.Transformer(D, 4, 2, 2, 32, 0.0, batch_first=True).encoder,
        layer,
    ],
    ids=["one layer", "encoder", "transformer", "inner encoder", "bare layer"],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_apply_with_and_without_a_prefix(
    build: Callable[[], nn.Module], depth: int, x: Tensor
) -> None:
    bare, wrapped = build(), build()
    for _ in range(depth):
        wrapped = Prefixed(wrapped)
    batch = (x, x) if isinstance(bare, nn.Transformer) else x
    profile = admin_init.profile(bare, [batch])
    expected = torch.tensor([site.omega for site in profile.sites])
    admin_init.apply_(wrapped, profile)
    torch.testing.assert_close(torch.tensor(omegas(wrapped))[:, 0], expected)
    back = admin_init.profile(wrapped, [batch])
    admin_init.apply_(bare, back)
    expected = torch.tensor([site.omega for site in back.sites])
    torch.testing.assert_close(torch.tensor(omegas(bare))[:, 0], expected)


def test_the_profile_of_a_part_applies_to_the_part_of_the_same_name(x: Tensor) -> None:
    whole = nn.ModuleDict({"encoder": encoder()})
    profile = admin_init.profile(whole["encoder"], [x])
    admin_init.apply_(whole, profile)
    assert len(omegas(whole)) == len(profile.sites)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: encoder(4), r"6 sites\) does not fit .* \(8 sites\).*model: \['layers.3"),
        (lambda: encoder(2), r"\(4 sites\).*only in the profile: \['layers.2.self_attn'"),
        (lambda: nn.Transformer(D, 4, 3, 1, 32), r"Only in the model.*Profile this model"),
        (lambda: nn.ModuleDict({"blocks": nn.ModuleList([layer() for _ in range(3)])}), "blocks.0"),
    ],
)
def test_apply_refuses_the_profile_of_another_model(
    other: Callable[[], nn.Module], message: str, x: Tensor
) -> None:
    profile = admin_init.profile(encoder(3), [x])
    model = other()
    with pytest.raises(ProfileError, match=message):
        admin_init.apply_(model, profile)
    assert not any(site.installed for site in find_sites(model))


def test_a_hand_made_profile_applies(x: Tensor) -> None:
    sites = tuple(SiteProfile(s.name, s.stack, 1.0, 2.5, 0) for s in find_sites(encoder()))
    model = admin_init.apply_(encoder(), AdminProfile(sites=sites))
    assert omegas(model) == [[2.5] * D] * 6


@pytest.mark.parametrize(
    ("dtype", "omega"),
    [
        (torch.float32, 1e39),
        (torch.float32, 1e-39),
        (torch.float16, 65_520.0),
        (torch.float16, 1e-5),
        (torch.bfloat16, 1e39),
    ],
)
@pytest.mark.parametrize("installed_before", [False, True])
def test_apply_refuses_an_omega_that_the_type_cannot_hold_and_changes_nothing(
    dtype: torch.dtype, omega: float, installed_before: bool, x: Tensor
) -> None:
    model = encoder(2)
    measured = admin_init.profile(model, [x]).sites
    omegas = [1.5, 2.0, omega, 3.0]
    made = AdminProfile(
        sites=tuple(replace(site, omega=o) for site, o in zip(measured, omegas, strict=True))
    )
    model.to(dtype)
    if installed_before:
        admin_init.install_(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ProfileError, match=r"layers\.1\.self_attn.* holds values from .* to "):
        admin_init.apply_(model, made)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_install_that_fails_halfway_leaves_a_plain_model(x: Tensor) -> None:
    model = encoder(3)
    keys, sites = model.state_dict().keys(), find_sites(model)
    sites[4].norm = nn.LayerNorm(D, elementwise_affine=False)
    for change in (
        lambda: admin_init.install_(model, sites=sites),
        lambda: admin_init.profile(model, [x], sites=sites),
    ):
        with pytest.raises(UnsupportedModelError, match="has no gain"):
            change()
        assert model.state_dict().keys() == keys
        assert {type(layer) for layer in model.layers} == {nn.TransformerEncoderLayer}


@pytest.mark.parametrize("function", [torch.inference_mode, torch.no_grad])
def test_a_model_that_is_rescaled_without_gradients_trains(
    function: Callable[[], AbstractContextManager[None]], x: Tensor
) -> None:
    model, other = encoder(2), encoder(2)
    with function():
        admin_init.apply_(model, admin_init.profile(model, [x]))
    admin_init.apply_(other, admin_init.profile(other, [x]))
    for each in (model, other):
        each.train()
        each(x).square().sum().backward()
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (parameter.grad is None) == (not parameter.requires_grad), name
        assert parameter.grad is None or torch.equal(parameter.grad, twin.grad), name


def test_a_model_that_is_built_in_inference_mode_is_refused(x: Tensor) -> None:
    made = admin_init.profile(encoder(2), [x])
    with torch.inference_mode():
        model = encoder(2)
    for change in (lambda: admin_init.profile(model, [x]), lambda: admin_init.apply_(model, made)):
        with pytest.raises(UnsupportedModelError, match="Build the model outside"):
            change()
    assert not any(site.installed for site in find_sites(model))
