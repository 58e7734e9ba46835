"""The rule ``share`` on Pre-LN models: the input of the stream is scaled by one omega."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.native_models import build as build_native
from _helpers.pre_ln_models import MODELS, Model
from torch import Tensor, nn

import admin_init
from admin_init import AdminProfile
from admin_init.adapters.discovery import call_model
from admin_init.adapters.stream_form import StreamSite
from admin_init.errors import NotPostLNError, ProfileError
from admin_init.nn import LanguageModel

SHARE = 0.6


def build(name: str) -> tuple[nn.Module, Model]:
    torch.manual_seed(3)
    return MODELS[name].build().double(), MODELS[name]


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    torch.manual_seed(4)
    found: Any = call_model(model.eval(), batch)
    found = getattr(found, "last_hidden_state", getattr(found, "logits", found))
    return [found]


def terms_by_hand(model: LanguageModel, tokens: Tensor) -> tuple[float, float]:
    """The variance of the input of the stack, and the sum of those of its branches."""
    seen: list[tuple[float, float]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith("_residual.skip"):
                handle = module.register_forward_hook(
                    lambda _, args, __: seen.append(
                        (args[0].var(correction=0).item(), args[1].var(correction=0).item())
                    )
                )
                hooks.callback(handle.remove)
        torch.manual_seed(4)
        model.train()(tokens)
    return seen[0][0], sum(branch for _, branch in seen)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_input_of_our_pre_ln_gets_its_share(share: float) -> None:
    torch.manual_seed(1)
    model: Any = build_native("pre", 0, 4).double()
    tokens = torch.randint(4, 20, (4, 7))
    given, added = terms_by_hand(model, tokens)
    torch.manual_seed(4)
    profile = admin_init.initialize_(model, tokens, rule="share", share=share)
    assert list(profile.initial_shares.values()) == pytest.approx([given / (given + added)])
    given, added = terms_by_hand(model, tokens)
    assert given / (given + added) == pytest.approx(share, rel=1e-6)
    (site,) = profile.sites
    assert site.variance == pytest.approx(added)
    assert f"share of the input {profile.initial_shares[site.stack]:.2g} -> " in str(profile)
    (omega,) = [p for name, p in model.named_parameters() if name.endswith("omega")]
    assert not omega.requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_profiled_and_found_again_by_its_profile(name: str, tmp_path: Path) -> None:
    model, one = build(name)
    plain = copy.deepcopy(model)
    torch.manual_seed(4)
    profile = admin_init.initialize_(model, one.batch, rule="share", share=SHARE)
    assert [site.name for site in profile.sites] == [start.name for start in one.streams]
    for site in profile.sites:
        scaled = site.omega**2 * site.shortcut_variance
        assert scaled / (scaled + site.variance) == pytest.approx(SHARE, rel=1e-6)
        assert 0 < profile.initial_shares[site.stack] < 1
    profile.save(tmp_path / "profile.json")
    again = admin_init.apply_(plain, AdminProfile.load(tmp_path / "profile.json"))
    for ours, theirs in zip(outputs(model, one.batch), outputs(again, one.batch), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name, one in MODELS.items() if one.folds])
def test_the_outputs_stay_the_same_after_a_fold(name: str) -> None:
    model, one = build(name)
    keys = list(model.state_dict())
    admin_init.initialize_(model, one.batch, rule="share", share=SHARE)
    expected = outputs(model, one.batch)
    admin_init.fold_(model)
    assert list(model.state_dict()) == keys
    for ours, theirs in zip(outputs(model, one.batch), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["reference", "paper", "log", "constant"])
def test_the_other_rules_refuse_it_and_say_which_does_not(rule: Any) -> None:
    model, one = build("GPT-2")
    with pytest.raises(NotPostLNError, match=r"Only `rule=\"share\"` has something to scale in it"):
        admin_init.profile(model, [one.batch], rule=rule)


def test_a_stream_can_be_left_out() -> None:
    model, one = build("T5")
    first, second = (start.name for start in one.streams)
    profile = admin_init.profile(model, [one.batch], rule="share", exclude=[first])
    assert [site.name for site in profile.sites] == [second]


@pytest.mark.parametrize("name", MODELS)
def test_given_sites_are_compared_with_what_is_computed(name: str, tmp_path: Path) -> None:
    model, one = build(name)
    found = admin_init.find_sites(model, one.batch, rule="share")
    admin_init.save_sites(found, tmp_path / "sites.json")
    torch.manual_seed(4)
    expected = admin_init.profile(model, [one.batch], rule="share")
    torch.manual_seed(4)
    given = admin_init.profile(model, [one.batch], rule="share", sites=tmp_path / "sites.json")
    assert [site.omega for site in given.sites] == [site.omega for site in expected.sites]


def test_a_given_site_that_starts_no_stream_is_refused() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
            layer = nn.TransformerEncoderLayer(
                16, 2, 32, dropout=0.0, batch_first=True, norm_first=True
            )
            self.pre = nn.TransformerEncoder(
                layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False
            )

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.pre(self.second(self.first(x)))
            return y

    x = torch.randn(3, 5, 16)
    model = Sum()
    (site,) = admin_init.find_sites(model, x, rule="share")
    assert site.name == "second"
    elsewhere = StreamSite(model, "first", "pre", replace(site.place, branch="first"))
    with pytest.raises(ProfileError, match=r"1 of 1 residual connections never ran .* \(`first`\)"):
        admin_init.profile(model, [x], rule="share", sites=[elsewhere])


def test_a_mixed_model_has_both() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            post = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            pre = nn.TransformerEncoderLayer(
                16, 2, 32, dropout=0.0, batch_first=True, norm_first=True
            )
            self.post = nn.TransformerEncoder(post, 2)
            self.between = nn.Linear(16, 16)
            self.pre = nn.TransformerEncoder(
                pre, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False
            )

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.pre(self.between(self.post(x)))
            return y

    torch.manual_seed(1)
    model = Mixed().double()
    profile = admin_init.profile(model, [torch.randn(3, 5, 16).double()], rule="share")
    assert [site.name for site in profile.sites] == [
        *(f"post.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn", "ffn")),
        "between",
    ]
    assert len(profile.initial_shares) == 2
