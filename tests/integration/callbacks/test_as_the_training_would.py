"""The profile of AdminInit under the conditions of the training, which it does not disturb."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.plain_post_ln import D, Stack, SubLayer
from _helpers.small_lightning import encoder, omegas, trainer
from _helpers.unknown_layers import inputs, module
from torch import Tensor
from torch.utils.data import DataLoader

import admin_init
from admin_init import AdminInit, StabilityMonitor


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(inputs(), batch_size=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build", [lambda dropout: encoder(dropout=dropout), lambda _: Stack(SubLayer)]
)
def test_modules_keep_the_mode_that_they_have(build: Any) -> None:
    profiles = []
    for dropout in (0.5, 0.0):
        torch.manual_seed(0)
        model = module(model=build(dropout).eval())
        trainer(callbacks=[callback := AdminInit()], max_steps=1).fit(model, loader())
        assert not model.model.training
        assert callback.profile is not None
        profiles.append([site.omega for site in callback.profile.sites])
    assert profiles[0] == profiles[1]


def test_a_second_model_of_a_trainer_is_profiled_and_the_first_is_not_again() -> None:
    done = trainer(callbacks=[callback := AdminInit()], max_epochs=1)
    first, second = module(), module(model=Stack(SubLayer))
    done.fit(first, loader())
    profile = callback.profile
    before = omegas(first)
    done.fit_loop.max_epochs = 2
    done.fit(first, loader())
    assert callback.profile is profile
    for old, new in zip(before[1:], omegas(first)[1:], strict=True):
        assert 0 < (new - old).abs().max() < 0.1  # trained, not set again
    done.fit_loop.max_epochs = 3
    done.fit(second, loader())
    assert callback.profile is not None
    assert [site.name for site in callback.profile.sites] == [
        f"model.layers.{i}.outer" for i in range(3)
    ]
    assert all((omega != 1).any() for omega in omegas(second)[1:])


class Batch:
    """A batch of the user's own class, which the step changes."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: Any, **_: Any) -> Batch:
        self.x = self.x.to(device)
        return self


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Tensor


@pytest.mark.parametrize("kind", [Batch, Frozen])
def test_a_batch_of_the_users_own_class_is_as_it_was(kind: Any) -> None:
    seen: dict[bool, list[Tensor]] = {}

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        if isinstance(batch, Batch):
            batch.x = batch.x * 2
        self.seen.append(batch.x.clone())
        loss: Tensor = self.model(batch.x).square().mean()
        return loss

    def transfer_batch_to_device(self: Any, batch: Any, *_: Any) -> Any:
        return batch

    for callbacks in ([], [AdminInit()]):
        model = module(
            model=Stack(SubLayer),
            training_step=training_step,
            transfer_batch_to_device=transfer_batch_to_device,
        )
        batches = loader(collate_fn=lambda items: kind(torch.stack(items)))
        trainer(callbacks=callbacks, max_steps=2).fit(model, batches)
        seen[bool(callbacks)] = model.seen
    for plain, ours in zip(seen[False], seen[True], strict=True):
        assert torch.equal(plain, ours)
    assert seen[True][0].shape == (4, 5, D)


def test_a_step_may_take_keywords_only_after_the_batch() -> None:
    def training_step(self: Any, batch: Tensor, *, scale: float = 1.0, **options: Any) -> Tensor:
        assert not options
        loss: Tensor = self.model(scale * batch).square().mean()
        return loss

    model = module(training_step=training_step)
    trainer(callbacks=[AdminInit()], max_steps=1).fit(model, loader())
    assert len(omegas(model)) == 3


def penalized(self: Any, batch: Tensor, batch_idx: int) -> Tensor:
    x = batch.clone().requires_grad_()
    energy: Tensor = self.model(x).square().mean()
    (slope,) = torch.autograd.grad(energy, x, create_graph=True)
    return energy + slope.square().mean()


def retained(self: Any, batch: Tensor, batch_idx: int) -> Tensor:
    hidden = self.model(batch)
    hidden.retain_grad()
    loss: Tensor = hidden.square().mean()
    return loss


@pytest.mark.parametrize("training_step", [penalized, retained])
@pytest.mark.parametrize("build", [encoder, lambda: Stack(SubLayer)])
def test_a_step_may_take_gradients(training_step: Any, build: Any) -> None:
    torch.manual_seed(0)
    model = module(model=build(), training_step=training_step)
    plain = copy.deepcopy(model.model)
    done = trainer(callbacks=[callback := AdminInit()], max_steps=1)
    done.fit(model, loader())
    assert callback.profile is not None
    expected = admin_init.profile(plain, [inputs()[:4]])
    # With dropout of its own draws.
    for ours, theirs in zip(callback.profile.sites, expected.sites, strict=True):
        assert ours.omega == pytest.approx(theirs.omega, rel=0.1)


def test_other_errors_of_a_step_are_not_hidden() -> None:
    def training_step(self: Any, batch: Tensor, batch_idx: int) -> Tensor:
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        trainer(callbacks=[AdminInit()]).fit(
            module(model=encoder(), training_step=training_step), loader()
        )


def test_it_is_profiled_after_the_hooks_of_the_module_and_of_all_callbacks() -> None:
    class Later(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.shift = 1.0

    def on_train_batch_start(self: Any, batch: Tensor, batch_idx: int) -> int | None:
        self.starts = [*getattr(self, "starts", []), batch_idx]
        return -1 if self.skip and batch_idx == 0 and self.current_epoch == 0 else None

    def training_step(self: Any, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.starts[-1] == batch_idx
        self.seen.append(batch.clone())
        loss: Tensor = self.model(batch + self.shift).square().mean()
        return loss

    for skip in (False, True):
        model = module(
            model=encoder(),
            training_step=training_step,
            on_train_batch_start=on_train_batch_start,
            skip=skip,
        )
        callbacks = [callback := AdminInit(), StabilityMonitor(), Later()]
        trainer(callbacks=callbacks, max_epochs=2).fit(model, loader())
        assert callback.profile is not None
        assert len(model.seen) == (3 if skip else 6)  # -1 skips the epoch
        # The wrapper of the hook is gone.
        assert "on_train_batch_start" not in vars(model)


class Averaging:
    """A training step that moves parameters itself, and takes items from iterators."""

    def __init__(self, model: Any) -> None:
        model.teacher = copy.deepcopy(model.model).requires_grad_(False)
        model.code = torch.nn.Parameter(torch.zeros(D), requires_grad=False)
        model.tied = torch.nn.Parameter(model.code[:4], requires_grad=False)  # in its memory
        model.unlabeled = iter(range(9))
        model.noise = (torch.full((D,), float(i)) for i in range(9))
        model.items = []


def averaging(self: Any, batch: Tensor, batch_idx: int) -> Tensor:
    with torch.no_grad():
        pairs = zip(self.teacher.parameters(), self.model.parameters(), strict=False)
        for theirs, ours in pairs:
            if theirs.shape == ours.shape:
                theirs.lerp_(ours, 0.1)
    self.code.data.lerp_(torch.ones(D), 0.5)
    noise = next(self.noise)
    noise += 1
    self.items.append((next(self.unlabeled), noise[0].item(), self.code[0].item()))
    loss: Tensor = (self.model(batch) + self.teacher(batch)).square().mean()
    return loss


def test_what_a_step_moves_itself_is_put_back() -> None:
    trained = {}
    for profiled in (False, True):
        model = module(model=encoder(dropout=0.0), training_step=averaging)
        Averaging(model)
        trainer(callbacks=[AdminInit()] if profiled else [], max_steps=3).fit(model, loader())
        trained[profiled] = model
    assert trained[True].items == trained[False].items
    assert trained[True].items[0] == (0, 1.0, 0.5)
    assert torch.equal(trained[True].code, trained[False].code)
    assert trained[True].tied[0] == trained[True].code[0]
