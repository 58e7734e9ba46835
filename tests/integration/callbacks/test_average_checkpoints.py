import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.forked import together
from _helpers.walker import batches, walker
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from admin_init import AdminInit, AdminInitError
from admin_init.callbacks.average_checkpoints import AverageCheckpoints

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def fit(
    lightning: ModuleType,
    weights: list[float],
    *,
    last: int = 2,
    monitor: str = "val_nll",
    mode: str = "min",
    folder: str = "run",
    ckpt_path: str | None = None,
    **settings: Any,
) -> Any:
    checkpoints = lightning.pytorch if hasattr(lightning, "pytorch") else lightning
    best = checkpoints.callbacks.ModelCheckpoint(folder, "best", monitor=monitor, mode=mode)
    every = checkpoints.callbacks.ModelCheckpoint(folder, "last", enable_version_counter=False)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": len(weights),
        "limit_train_batches": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [AverageCheckpoints(last, monitor=monitor), best, every],
    }
    trainer = lightning.Trainer(**defaults | settings)
    model = walker(lightning, weights)
    trainer.fit(model, batches(), batches(), ckpt_path=ckpt_path)
    return trainer, model


def weight(name: str, folder: str = "run") -> float:
    return float(torch.load(f"{folder}/{name}", weights_only=True)["state_dict"]["weight"])


def choice(folder: str = "run") -> Any:
    return json.loads(Path(folder, "chosen.json").read_text())


def test_the_average_is_chosen_where_it_is_better(lightning: ModuleType) -> None:
    fit(lightning, [9.0, 5.0, 0.0, 2.5])
    assert weight("average.ckpt") == weight("chosen.ckpt") == 1.25
    assert choice() == {
        "chosen": "average",
        "mode": "min",
        "best": {"checkpoints": ["best.ckpt"], "val_nll": 1.0},
        "average": {"checkpoints": ["step_0000003.ckpt", "step_0000004.ckpt"], "val_nll": 0.25},
    }
    steps = sorted(path.name for path in Path("run").glob("step_*"))
    assert steps == ["step_0000003.ckpt", "step_0000004.ckpt"]
    saved = torch.load("run/chosen.ckpt", weights_only=True)
    assert "optimizer_states" not in saved
    assert int(saved["state_dict"]["epochs"]) == 4


def test_the_best_is_chosen_where_it_is_better(lightning: ModuleType) -> None:
    fit(lightning, [9.0, 1.5, 5.0, 2.5])
    assert (weight("average.ckpt"), weight("chosen.ckpt")) == (3.75, 1.5)
    assert (choice()["chosen"], choice()["best"]["val_nll"]) == ("best", 0.5)
    assert "optimizer_states" not in torch.load("run/chosen.ckpt", weights_only=True)


def test_more_may_be_better() -> None:
    fit(pl, [9.0, 5.0, 0.0, 2.5], monitor="accuracy", mode="max")
    assert (choice()["chosen"], choice()["average"]["accuracy"]) == ("average", -0.25)
    fit(pl, [9.0, 1.5, 5.0, 2.5], monitor="accuracy", mode="max", folder="other")
    assert (choice("other")["chosen"], choice("other")["mode"]) == ("best", "max")


def test_what_is_not_a_number_is_neither_averaged_nor_chosen(lightning: ModuleType) -> None:
    fit(lightning, [5.0, 3.0, math.nan])
    assert (weight("average.ckpt"), weight("chosen.ckpt")) == (4.0, 3.0)
    assert choice()["average"]["checkpoints"] == ["step_0000001.ckpt", "step_0000002.ckpt"]


def test_fewer_validations_than_asked_for() -> None:
    fit(pl, [2.0, 4.0], last=10)
    assert weight("average.ckpt") == 3.0


def test_the_trainer_is_left_as_it_was(lightning: ModuleType) -> None:
    logged: list[float] = []
    base = lightning.pytorch if hasattr(lightning, "pytorch") else lightning

    class Logger(base.loggers.logger.DummyLogger):  # type: ignore[name-defined,misc]
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.extend([metrics["val_nll"]] if "val_nll" in metrics else [])

    logger = Logger()
    trainer, model = fit(lightning, [9.0, 5.0, 0.0, 2.5], logger=logger)
    assert logged == [8.0, 4.0, 1.0, 1.5]
    assert trainer.loggers == [logger]
    assert float(trainer.callback_metrics["val_nll"]) == 1.5
    assert trainer.state.fn == "fit"
    assert model.weight.item() == 2.5
    assert model.training
    # And no other callback took the average for the model of an epoch.
    assert [path.name for path in Path("run").glob("best*")] == ["best.ckpt"]
    assert weight("best.ckpt") == 0.0


def test_a_resumed_run_averages_what_the_undisturbed_one_does(lightning: ModuleType) -> None:
    weights = [9.0, 5.0, 0.0, 2.5]
    fit(lightning, weights, last=3, folder="undisturbed")
    fit(lightning, weights, last=3, max_epochs=2)
    assert weight("average.ckpt") == 7.0
    fit(lightning, weights, last=3, ckpt_path="run/last.ckpt")
    assert weight("average.ckpt") == weight("average.ckpt", "undisturbed") == 2.5
    assert choice() == choice("undisturbed")


def test_what_another_run_left_in_the_folder_is_not_averaged() -> None:
    fit(pl, [9.0, 9.0, 9.0, 9.0])
    fit(pl, [1.0, 3.0, 4.0], last=3)
    assert weight("average.ckpt") == pytest.approx(8 / 3)


def test_checkpoints_that_are_gone_are_warned_of() -> None:
    weights = [9.0, 5.0, 0.0, 2.5]
    fit(pl, weights, max_epochs=2)
    Path("run/step_0000002.ckpt").unlink()
    with pytest.warns(UserWarning, match="1 of the last 3 checkpoints are missing"):
        fit(pl, weights, last=3, max_epochs=3, ckpt_path="run/last.ckpt")
    assert weight("average.ckpt") == 4.5


def test_a_checkpoint_that_will_not_be_read_is_refused_at_once() -> None:
    model = walker(pl, [9.0, 5.0])
    model.save_hyperparameters({"anything": Path("data")})
    best = pl.callbacks.ModelCheckpoint("run", "best", monitor="val_nll")
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[AverageCheckpoints(), best], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(AdminInitError, match="more than tensors and plain values"):
        trainer.fit(model, batches(), batches())
    assert trainer.current_epoch == 0


def test_a_trial_run_leaves_nothing() -> None:
    fit(pl, [9.0], fast_dev_run=True)
    assert not Path("run").exists()


@pytest.mark.parametrize("monitor", [None, "accuracy"])
def test_there_must_be_a_best_checkpoint(monitor: str | None) -> None:
    callbacks = [AverageCheckpoints(), pl.callbacks.ModelCheckpoint("run", monitor=monitor)]
    with pytest.raises(AdminInitError, match=r"no ModelCheckpoint with `monitor='val_nll'`"):
        fit(pl, [9.0], callbacks=callbacks)


def test_there_must_be_something_to_average() -> None:
    with pytest.raises(ValueError, match="`last` must be at least 1, but is 0"):
        AverageCheckpoints(0)


def test_omegas_are_averaged() -> None:
    class Post(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
            self.model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = (self.model(batch[0]) - 1).square().mean()
            return loss

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_nll", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    pl.seed_everything(1, verbose=False)
    model, data = Post(), DataLoader(TensorDataset(torch.randn(8, 5, 16)), batch_size=4)
    best = pl.callbacks.ModelCheckpoint("run", "best", monitor="val_nll")
    pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[AdminInit(), AverageCheckpoints(3), best],
    ).fit(model, data, data)  # fmt: skip
    states = [
        torch.load(path, weights_only=True)["state_dict"] for path in Path("run").glob("step_*")
    ]
    average = torch.load("run/average.ckpt", weights_only=True)["state_dict"]
    omegas = [name for name in average if name.endswith(".omega")]
    assert len(omegas) == 4
    assert len(states) == 3
    for name in omegas:
        mean = sum(state[name] for state in states) / 3
        torch.testing.assert_close(average[name], mean)
    assert not torch.equal(average[omegas[-1]], states[0][omegas[-1]])


def train_a_rank() -> None:
    trainer, model = fit(pl, [9.0, 5.0, 0.0, 2.5], devices=2, strategy="ddp")
    sys.stdout.write(f"rank {trainer.global_rank} has {model.weight.item()}\n")


def test_two_processes() -> None:
    outputs = together(train_a_rank)
    for rank, output in enumerate(outputs):
        assert f"rank {rank} has 2.5" in output
    assert weight("chosen.ckpt") == 1.25
    assert choice()["average"]["val_nll"] == 0.25
    assert len(list(Path("run").glob("step_*"))) == 2


def test_where_all_is_nan_nothing_is_chosen() -> None:
    fit(pl, [9.0])
    with pytest.warns(UserWarning, match="chose no checkpoint: val_nll is never finite. There is"):
        fit(pl, [math.nan, math.nan])
    assert not Path("run/chosen.ckpt").exists()
    assert not Path("run/chosen.json").exists()
