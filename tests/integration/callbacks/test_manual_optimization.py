"""AdminInit in a module with manual optimization, whose training step updates the weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _helpers.plain_post_ln import D, Stack, SubLayer
from _helpers.small_lightning import encoder, omegas, trainer
from _helpers.unknown_layers import inputs, module
from torch import Tensor, nn
from torch.utils.data import DataLoader

from admin_init import AdminInit, ProfileError


def adversarial(self: Any, batch: Tensor, batch_idx: int) -> None:
    """As in a GAN: two networks, two optimizers, two backward passes."""
    judging, making = self.optimizers()
    made = self.model(batch)
    self.toggle_optimizer(judging)
    judging.zero_grad()
    self.manual_backward(self.judge(made.detach()).mean() - self.judge(batch).mean())
    judging.step()
    self.untoggle_optimizer(judging)
    making.zero_grad()
    loss = -self.judge(made).mean()
    self.manual_backward(loss)
    self.clip_gradients(making, gradient_clip_val=1.0)
    making.step()
    self.lr_schedulers().step()
    self.log("loss", loss)


def plain_backward(self: Any, batch: Tensor, batch_idx: int) -> None:
    judging, making = self.optimizers(use_pl_optimizer=False)
    judging.zero_grad()
    making.zero_grad()
    self.judge(self.model(batch)).square().mean().backward()
    judging.step()
    making.step()


def with_closures(self: Any, batch: Tensor, batch_idx: int) -> None:
    def closure() -> Tensor:
        making.zero_grad()
        loss: Tensor = self.judge(self.model(batch)).square().mean()
        self.manual_backward(loss)
        return loss

    _, making = self.optimizers()
    making.step(closure=closure)


def configure_optimizers(self: Any) -> Any:
    judging = torch.optim.Adam(self.judge.parameters(), lr=1e-2)
    making = torch.optim.Adam(self.model.parameters(), lr=1e-2)
    return [judging, making], [torch.optim.lr_scheduler.StepLR(making, 1)]


def network(step: Any, model: nn.Module) -> Any:
    made = module(
        model=copy.deepcopy(model),
        training_step=step,
        configure_optimizers=configure_optimizers,
        automatic_optimization=False,
    )
    made.judge = nn.Linear(D, 1)
    return made


def fit(model: Any, callback: AdminInit) -> Any:
    torch.manual_seed(3)
    data = DataLoader(inputs(), batch_size=4)  # type: ignore[arg-type]
    done = trainer(callbacks=[callback], max_steps=4)
    done.fit(model, data)
    return done


@pytest.mark.parametrize("step", [adversarial, plain_backward, with_closures])
def test_its_step_is_run_without_updates(step: Any) -> None:
    start = encoder(dropout=0.1)
    profiled, given = network(step, start), network(step, start)
    profiled.load_state_dict(given.state_dict())
    done = fit(profiled, callback := AdminInit())
    assert callback.profile is not None
    assert all((omega != 1).any() for omega in omegas(profiled)[1:])
    other = fit(given, AdminInit(profile=callback.profile))
    weights, others = profiled.state_dict(), given.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for ours, theirs in zip(done.optimizers, other.optimizers, strict=True):
        assert str(ours.state_dict()) == str(theirs.state_dict())
    assert done.global_step == other.global_step
    assert "step" not in vars(done.strategy._lightning_optimizers[0])


@pytest.mark.parametrize("step", [adversarial, plain_backward])
def test_the_folded_checkpoint_is_checked_without_updates(step: Any) -> None:
    start = encoder(dropout=0.1)
    model = network(step, start)
    callback = AdminInit(fold_on_end=True)
    done = trainer(callbacks=[callback], max_steps=4, enable_checkpointing=True)
    done.fit(model, DataLoader(inputs(), batch_size=4))  # type: ignore[arg-type]
    assert done.checkpoint_callback is not None
    folded = torch.load(f"{done.checkpoint_callback.dirpath}/folded.ckpt", weights_only=True)
    weights = {n.removeprefix("model."): w for n, w in folded["state_dict"].items()}
    plain = copy.deepcopy(start)
    plain.load_state_dict({n: w for n, w in weights.items() if not n.startswith("judge")})
    torch.testing.assert_close(
        plain.eval()(inputs()), model.model.eval()(inputs()), rtol=1e-3, atol=1e-3
    )


def test_with_layers_of_no_known_family_it_needs_to_be_told_how_to_look() -> None:
    with pytest.raises(ProfileError, match="Set `example_input_array` in the module, or pass"):
        fit(network(adversarial, Stack(SubLayer)), AdminInit())
    told = network(adversarial, Stack(SubLayer))
    told.example_input_array = inputs(2)
    fit(told, callback := AdminInit())
    assert callback.profile is not None
    assert len(callback.profile.sites) == 3
