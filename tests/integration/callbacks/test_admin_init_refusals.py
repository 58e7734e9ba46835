"""What AdminInit refuses or warns of, before any work is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.small_lightning import data, encoder, module, trainer
from torch import Tensor, nn

from admin_init import (
    AdminInit,
    AdminInitError,
    NotPostLNError,
    ProfileError,
    TrainedModelError,
    UnsupportedModelError,
    find_sites,
    profile,
)


def test_no_sites_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="`sites` must name at least one residual connection"):
        AdminInit(sites=[])


def test_two_callbacks_are_refused() -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `AdminInit`"):
        trainer(callbacks=[AdminInit(), AdminInit()])


def refused(model: nn.Module, error: type[Exception], message: str, **kwargs: Any) -> None:
    with pytest.raises(error, match=message):
        trainer(callbacks=[AdminInit(**kwargs)]).fit(module(model=model), data())


def test_a_pre_ln_model_is_refused() -> None:
    model = encoder(norm_first=True)
    refused(model, NotPostLNError, r"`model.layers.0` is Pre-LN \(norm_first=True\)")


def test_a_model_without_residual_sites_is_refused() -> None:
    refused(nn.Linear(16, 16), UnsupportedModelError, "computes no residual connection")


def test_a_layer_at_several_depths_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    refused(nn.Sequential(*[layer] * 4), UnsupportedModelError, "used at several depths.*4 times")


def test_a_site_that_never_runs_is_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = encoder(1), encoder(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    refused(Lazy(), ProfileError, "2 of 4 residual connections never ran.*model.unused")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_variance_that_is_not_finite_is_refused(value: float) -> None:
    model = encoder()
    nn.init.constant_(model.layers[1].linear2.bias, value)
    refused(model, ProfileError, "variance of `model.layers.1.ffn`.* is NaN or infinite")


def test_a_frozen_model_is_refused() -> None:
    refused(encoder().requires_grad_(False), TrainedModelError, "All layer norms are frozen")


def _trained(part: str, value: float) -> Callable[[nn.Module], None]:
    def train(model: nn.Module) -> None:
        nn.init.constant_(model.get_parameter(part), value)

    return train


@pytest.mark.parametrize(
    ("part", "value", "what"),
    [("layers.1.norm2.weight", 0.9, "norm gain"), ("layers.0.norm1.bias", 0.1, "norm bias")],
)
def test_a_trained_model_is_refused_unless_forced(part: str, value: float, what: str) -> None:
    model = encoder()
    _trained(part, value)(model)
    refused(model, TrainedModelError, f"looks trained: the {what}")
    callback = AdminInit(force=True)
    trainer(callbacks=[callback], max_steps=1).fit(module(model=model), data())
    assert callback.profile is not None


def test_omegas_already_set_are_refused() -> None:
    model = module()
    trainer(callbacks=[AdminInit()], max_steps=1).fit(model, data())
    for site in find_sites(model):
        reset(site.norm)
    with pytest.raises(TrainedModelError, match="the omega of"):
        trainer(callbacks=[AdminInit()]).fit(model, data())


def reset(norm: nn.Module) -> None:
    assert isinstance(norm, nn.LayerNorm)
    norm.reset_parameters()


def test_bad_arguments_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`rule` must be one of reference, paper"):
        AdminInit(rule="refrence")  # type: ignore[arg-type]
    with pytest.raises(ProfileError, match=r"no profile at .*missing\.json"):
        trainer(callbacks=[AdminInit(profile=tmp_path / "missing.json")]).fit(module(), data())


def test_a_profile_of_another_model_is_refused() -> None:
    other = profile(encoder(5), [(torch.randn(2, 5, 16),)])
    with pytest.raises(ProfileError, match=r"\(10 sites\) does not fit this model \(6 sites\)"):
        trainer(callbacks=[AdminInit(profile=other)]).fit(module(), data())


def test_an_optimizer_without_omega_is_warned_of() -> None:
    model = module()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    type(model).configure_optimizers = lambda self: early
    with pytest.warns(UserWarning, match="No optimizer has 5 of the omegas"):
        trainer(callbacks=[AdminInit()], max_steps=1).fit(model, data())


def test_a_step_that_fetches_its_own_batches_needs_a_profile() -> None:
    model = module()
    type(model).training_step = lambda self, dataloader_iter: None
    with pytest.raises(ProfileError, match=r"takes `dataloader_iter` .* `AdminInit\(profile="):
        trainer(callbacks=[AdminInit()]).fit(model, data())


@pytest.mark.parametrize("name", ["StochasticWeightAveraging", "WeightAveraging"])
def test_averaging_must_come_after(name: str) -> None:
    averaging = getattr(pl.callbacks, name)
    arguments = {"swa_lrs": 0.1} if name.startswith("Stochastic") else {}
    with pytest.raises(AdminInitError, match=f"Put AdminInit before {name}"):
        trainer(callbacks=[averaging(**arguments), AdminInit()]).fit(module(), data())
    trainer(callbacks=[AdminInit(), averaging(**arguments)]).fit(module(), data())


def test_layers_that_are_left_as_they_are_are_warned_of() -> None:
    model = nn.Sequential(encoder(norm_first=True), encoder())
    with pytest.warns(UserWarning, match=r"leaves 3 layers .* unchanged: `model.0.layers.0` is"):
        trainer(callbacks=[AdminInit()], max_steps=1).fit(module(model=model), data())


def test_groups_that_know_no_omega_are_told_of_it() -> None:
    """As in minGPT, where every parameter must be in one of two sets of names."""

    def configure_optimizers(self: Any) -> torch.optim.Optimizer:
        unknown = [n for n, _ in self.named_parameters() if not n.endswith(("weight", "bias"))]
        assert not unknown, f"parameters {unknown} were not separated"
        return torch.optim.SGD(self.parameters(), 0.1)

    def broken(self: Any) -> torch.optim.Optimizer:
        raise ValueError("no learning rate")

    for method, told in ((configure_optimizers, True), (broken, False)):
        model = module()
        type(model).configure_optimizers = method
        with pytest.raises((AssertionError, ValueError)) as caught:
            trainer(callbacks=[AdminInit()]).fit(model, data())
        notes = getattr(caught.value, "__notes__", [])
        assert any("admin_init.parameter_groups" in note for note in notes) == told
