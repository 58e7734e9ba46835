import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from admin_init.callbacks.random_state import RandomState

Draws = tuple[float, float, float, float, Tensor]


def draw() -> Draws:
    return random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(3)  # noqa: NPY002


def same(one: Draws, other: Draws) -> bool:
    return all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True)
    )


def module_of(lightning: ModuleType) -> Any:
    class Dropping(lightning.LightningModule):  # type: ignore[misc,name-defined,unused-ignore]
        """Its losses depend on dropout, and on what else is drawn in a step."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)
            torch.nn.init.ones_(self.layer.weight)
            self.losses: list[float] = []

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            noise = random.random() + np.random.rand()  # noqa: NPY002
            loss: Tensor = (
                (self.layer(torch.dropout(batch[0], 0.5, train=True)) + noise).square().mean()
            )
            self.losses.append(loss.item())
            return loss

        def on_fit_start(self) -> None:
            # What sets a run up may draw, also where the run is resumed.
            draw()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Dropping()


def fit(
    lightning: ModuleType, epochs: int, callbacks: list[Any], ckpt_path: str | None = None
) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=callbacks,
    )
    model = module_of(lightning)
    ones = TensorDataset(torch.ones(10, 4))
    trainer.fit(model, DataLoader(ones, 2, generator=torch.Generator()), ckpt_path=ckpt_path)
    return trainer, model


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*log_every_n_steps")
@pytest.mark.parametrize("with_callback", [True, False])
def test_losses_of_a_resumed_run_are_those_of_the_undisturbed(
    lightning: ModuleType, with_callback: bool
) -> None:
    callbacks = [RandomState()] if with_callback else []
    seed(1)
    _, undisturbed = fit(lightning, 2, callbacks)
    seed(1)
    trainer, first = fit(lightning, 1, callbacks)
    trainer.save_checkpoint("half.ckpt")
    checkpoint = torch.load("half.ckpt", weights_only=True)
    assert bool(checkpoint["callbacks"]) == with_callback
    seed(2)
    _, second = fit(lightning, 2, callbacks, ckpt_path="half.ckpt")
    # The dropout of this test matters, or the second assertion would hold for nothing.
    assert (first.losses + second.losses == undisturbed.losses) == with_callback


def test_every_generator_is_restored(lightning: ModuleType, tmp_path: Path) -> None:
    callback = RandomState()
    seed(3)
    draw()  # an odd number of normal deviates: the next has been drawn already
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    expected = draw()
    restored = RandomState()
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert not same(draw(), expected)
    restored.on_train_start(trainer, lightning.LightningModule())
    assert same(draw(), expected)
    # A second fit of the same trainer is no resume.
    restored.on_train_start(trainer, lightning.LightningModule())
    assert not same(draw(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_generator_of_the_gpu_is_restored(lightning: ModuleType) -> None:
    torch.rand(1, device="cuda")
    callback = RandomState()
    state = callback.state_dict()
    expected = torch.rand(3, device="cuda")
    callback.load_state_dict(state)
    callback.on_train_start(
        lightning.Trainer(logger=False, enable_checkpointing=False), lightning.LightningModule()
    )
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def test_another_number_of_ranks_is_warned_of(lightning: ModuleType) -> None:
    callback = RandomState()
    state = callback.state_dict()
    callback.load_state_dict({"ranks": state["ranks"] * 2})
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="random state of 2 ranks, but there are 1"):
        callback.on_train_start(trainer, lightning.LightningModule())
    assert torch.equal(torch.get_rng_state(), before)
