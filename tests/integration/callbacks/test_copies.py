"""Frozen modules and frozen copies, such as a teacher, in a model that AdminInit rescales."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers import copied_models
from _helpers.copied_models import Distilled, data, encoder_of, omegas_in, stack_of
from _helpers.forked import together
from _helpers.plain_post_ln import SubLayer
from _helpers.small_lightning import trainer
from torch import Tensor, nn

import admin_init
from admin_init import AdminInit, AdminProfile

BUILDS: list[Callable[[], nn.Module]] = [encoder_of, stack_of]
both = pytest.mark.parametrize("build", BUILDS, ids=["torch.nn", "plain"])


def fit(model: Distilled, **options: Any) -> tuple[Any, AdminInit]:
    torch.manual_seed(2)
    callback = AdminInit()
    done = trainer(callbacks=[callback], **({"max_steps": 3} | options))
    done.fit(model, data())
    return done, callback


@both
@pytest.mark.parametrize("when", ["__init__", "setup", "configure_optimizers", "on_fit_start"])
@pytest.mark.parametrize("runs", [True, False], ids=["runs", "rests"])
def test_a_teacher_is_rescaled_like_its_student(
    build: Callable[[], nn.Module], when: str, runs: bool
) -> None:
    model = Distilled(build, when, runs=runs)
    _, callback = fit(model)
    assert callback.profile is not None
    # At the beginning of the first step, after the profile.
    assert model.apart[0] == 0
    assert model.apart[1] > 0
    ours, theirs = (omegas_in(module) for module in (model.student, model.teacher))
    assert ours.keys() == theirs.keys()
    assert len(ours) in (3, 6)
    assert not any(omega.requires_grad for omega in theirs.values())
    by_name = {site.name: site.omega for site in callback.profile.sites}
    assert len(by_name) == 2 * len(ours)
    for name, omega in by_name.items():
        assert by_name[name.replace("teacher", "student")] == omega


@both
def test_the_omegas_of_a_frozen_module_are_frozen(build: Callable[[], nn.Module]) -> None:
    class WithBackbone(Distilled):
        def training_step(self, batch: Tensor) -> Tensor:
            loss: Tensor = self.student(self.teacher(batch)).mean(1).square().mean()
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            pass

    model = WithBackbone(build, "__init__")
    model.teacher = build().requires_grad_(False)
    model.example_input_array = None
    _, callback = fit(model, max_steps=4)
    assert callback.profile is not None
    assert len(callback.profile.sites) == 2 * len(omegas_in(model.student))
    for name, omega in omegas_in(model.teacher).items():
        assert not omega.requires_grad
        assert (omega == omega[0]).all(), name
    # The student's chain goes on where that of the frozen module ends.
    for omega in omegas_in(model.student).values():
        assert omega.requires_grad
        assert omega.std() > 0


@both
def test_a_resumed_run_is_the_undisturbed_one(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    first = Distilled(build, "__init__")
    whole, part = copy.deepcopy(first), copy.deepcopy(first)
    fit(whole, max_epochs=2, max_steps=-1)
    done, _ = fit(part, max_epochs=1, max_steps=-1)
    done.save_checkpoint("part.ckpt")
    resumed = Distilled(build, "__init__")
    torch.manual_seed(2)
    trainer(callbacks=[AdminInit()], max_epochs=2).fit(resumed, data(), ckpt_path="part.ckpt")
    weights, others = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@both
def test_the_profile_of_a_copy_is_saved_and_applied(build: Callable[[], nn.Module]) -> None:
    x = torch.randn(2, 5, 16)
    models = []
    torch.manual_seed(0)
    student = build()
    for _ in range(2):
        model = nn.ModuleDict({"student": copy.deepcopy(student)})
        model["teacher"] = copy.deepcopy(model["student"]).requires_grad_(False)
        models.append(model.eval())
    profile = admin_init.initialize_(models[0], x, forward=lambda model, x: model["student"](x))
    profile.save("profile.json")
    admin_init.apply_(models[1], AdminProfile.load("profile.json"))
    for model in models:
        # torch runs frozen layers in another kernel.
        torch.testing.assert_close(model["teacher"](x), model["student"](x))
    assert torch.equal(models[0]["teacher"](x), models[1]["teacher"](x))
    expected = models[0]["teacher"](x)
    admin_init.fold_(models[0])
    torch.testing.assert_close(models[0]["teacher"](x), expected, rtol=1e-4, atol=1e-5)


def test_only_equal_frozen_modules_are_copies() -> None:
    x = torch.randn(2, 5, 16)
    model = nn.ModuleDict({"student": stack_of(), "other": stack_of().requires_grad_(False)})
    model["twin"] = copy.deepcopy(model["student"])  # trained, too
    model["part"] = copy.deepcopy(model["student"])
    model["part"].layers[0].requires_grad_(False)  # type: ignore[union-attr, operator]
    sites = admin_init.find_sites(model, x, forward=lambda model, x: model["student"](x))
    # The frozen part of a model that is otherwise trained is a copy, too.
    assert [site.name for site in sites] == [
        *(f"student.layers.{i}.outer" for i in range(3)),
        "part.layers.0.outer",
    ]
    del model["part"]
    sites = admin_init.find_sites(model, x, forward=lambda model, x: model["student"](x))
    assert len(sites) == 3
    model["student"].requires_grad_(False)
    model["twin"].requires_grad_(False)
    sites = admin_init.find_sites(model, x, forward=lambda model, x: model["student"](x))
    assert len(sites) == 3


def test_a_copy_can_be_left_out() -> None:
    x = torch.randn(2, 5, 16)
    model = nn.ModuleDict({"student": nn.Sequential(SubLayer(), SubLayer())})
    model["teacher"] = copy.deepcopy(model["student"]).requires_grad_(False)
    profile = admin_init.initialize_(
        model, x, forward=lambda model, x: model["student"](x), exclude=["teacher"]
    )
    assert len(profile.sites) == 2
    assert not omegas_in(model["teacher"])


def test_a_copy_that_runs_several_times_is_served_unless_its_original_does() -> None:
    x = torch.randn(2, 5, 16)
    model = nn.ModuleDict({"student": stack_of(), "other": SubLayer()})
    model["teacher"] = copy.deepcopy(model["student"]).requires_grad_(False)

    def two_views(model: Any, x: Tensor) -> None:
        model["other"](model["student"](x))
        model["teacher"](x)
        model["teacher"](x + 1)

    profile = admin_init.profile(model, [x], forward=two_views)
    assert sum("teacher" in site.name for site in profile.sites) == 3
    assert not profile.left_out

    def many_crops(model: Any, x: Tensor) -> None:
        model["student"](x + 1)
        model["other"](model["student"](x))
        model["teacher"](x)

    with pytest.warns(UserWarning, match="`teacher.layers.0.outer`: it is a copy of `student.lay"):
        profile = admin_init.profile(model, [x], forward=many_crops)
    assert [site.name for site in profile.sites] == ["other.outer"]


def test_equal_layers_of_one_chain_are_no_copies_of_each_other() -> None:
    x = torch.randn(2, 5, 16)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    model.layers[0].requires_grad_(False)
    profile = admin_init.profile(model, [x])
    plain = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    assert profile == admin_init.profile(plain, [x])
    part = SubLayer()
    chain = nn.Sequential(part, copy.deepcopy(part).requires_grad_(False), copy.deepcopy(part))
    assert len(admin_init.initialize_(chain, x).sites) == 3
    assert [site.previous is None for site in admin_init.find_sites(chain, x)] == [True] + [
        False
    ] * 2


def test_two_ranks_rescale_a_teacher_alike() -> None:
    together(copied_models.train)
    first, second = (torch.load(f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any("teacher" in name for name in first)
