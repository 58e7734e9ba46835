from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from _helpers.walker import batches, walker
from torch import Tensor, nn

from admin_init.callbacks.divergence import DivergenceCheck
from admin_init.callbacks.fit_log import FitLog
from admin_init.errors import AdminInitError, DivergedError
from admin_init.lab.comparison.criteria import Criteria

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def fit(
    lightning: ModuleType,
    weights: list[float],
    check: DivergenceCheck | None = None,
    model: Any = None,
    **settings: Any,
) -> DivergenceCheck:
    """Train a model whose one weight is `weights[i]` after epoch i, and should be 1."""
    lightning = getattr(lightning, "pytorch", lightning)
    check = check or DivergenceCheck()
    keep = lightning.callbacks.ModelCheckpoint
    callbacks = [
        check,
        FitLog(),
        keep("run", "best", monitor="val_nll"),
        keep("run", "last", enable_version_counter=False),
    ]
    ckpt_path = settings.pop("ckpt_path", None)
    defaults = {"accelerator": "cpu", "max_epochs": len(weights), "limit_train_batches": 1}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(**{**defaults, **quiet, "callbacks": callbacks, **settings})
    model = model or walker(lightning, weights)
    trainer.fit(model, batches(), batches(), ckpt_path=ckpt_path)
    return check


def saved(name: str) -> float:
    return float(torch.load(f"run/{name}.ckpt", weights_only=True)["state_dict"]["weight"])


def test_nan_ends_the_training_and_reaches_no_checkpoint(lightning: ModuleType) -> None:
    with pytest.raises(DivergedError) as error:
        fit(lightning, [2.0, 1.5, math.nan, 1.0])
    assert str(error.value) == (
        "the training diverged and was stopped: after step 3 the loss is nan (0.0000 after step "
        "2), as is the weight `weight`; val_nll was best with 0.5000 after step 2, kept in "
        f"{Path('run/best.ckpt').absolute()}. Try a lower learning rate, a longer warm-up or "
        "gradient clipping."
    )
    assert error.value.exit_code == 1
    assert isinstance(error.value, AdminInitError)
    assert saved("best") == saved("last") == 1.5


def test_nan_that_only_the_writer_of_a_checkpoint_sees() -> None:
    # As between two readings of the loss on a GPU.
    class Unread(DivergenceCheck):
        def on_train_batch_end(self, *args: Any) -> None:
            pass

        on_validation_end = on_train_batch_end

    with pytest.raises(DivergedError, match="as is the weight `weight`"):
        fit(pl, [2.0, math.nan], Unread())
    assert saved("best") == saved("last") == 2.0


class Loss(pl.LightningModule):
    """Its weight stays as it is; training and validation show given losses."""

    def __init__(self, train: list[float], valid: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.losses = train, valid

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return 0 * self.weight.sum() + self.losses[0][self.current_epoch]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_nll", self.losses[1][self.current_epoch], prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def losses(train: list[float], valid: list[float], **options: Any) -> DivergenceCheck:
    return fit(pl, train, DivergenceCheck(**options), Loss(train, valid))


def test_a_loss_that_is_not_finite_while_the_weights_are_passes() -> None:
    check = losses([1.0, math.inf, math.nan, 1.0, 1.0], [3.0, 2.9, 2.9, math.nan, 2.5])
    assert check.best == (2.5, 5)


def test_neither_training_nor_validation_is_finite() -> None:
    with pytest.raises(DivergedError, match=r"step 2 the loss is nan .* and val_nll inf; val_nll"):
        losses([1.0, math.nan, 1.0], [3.0, math.inf, 1.0])


def test_the_end_is_judged_by_the_best() -> None:
    assert losses([1.0] * 3, [3.0, 2.0, 2.5]).best == (2.0, 2)
    with pytest.raises(DivergedError, match=r"2\.5100 after step 3, 0\.5100 above its best"):
        losses([1.0] * 3, [3.0, 2.0, 2.51])
    assert saved("last") == 0, "it is said after everything has been written"
    losses([1.0] * 3, [3.0, 2.0, 2.51], margin=1.0)
    # What happens on the way is the training's own business.
    losses([1.0] * 3, [2.0, 9.0, 2.1])
    with pytest.raises(DivergedError, match="after its last step, 2, val_nll is nan; val_nll was"):
        losses([1.0] * 2, [3.0, math.nan])
    losses([1.0], [math.nan], monitor="other")


def test_a_resumed_training_knows_its_best() -> None:
    losses([1.0] * 2, [2.0, 2.4])
    with pytest.raises(DivergedError, match=r"0\.9000 above its best"):
        fit(pl, [1.0] * 3, model=Loss([1.0] * 3, [2.0, 2.4, 2.9]), ckpt_path="run/last.ckpt")


def test_ranks_agree() -> None:
    """Of two processes, each reads its loss at the same steps, and asks the other."""
    asked: list[bool] = []

    def decide(here: bool, all: bool) -> bool:  # noqa: A002, as Lightning calls it
        asked.append(here)
        return len(asked) > 1  # the other rank has seen NaN, by the second time

    trainer = mock.Mock(
        world_size=2, log_every_n_steps=10, accumulate_grad_batches=1, checkpoint_callbacks=[]
    )
    trainer.strategy = SimpleNamespace(
        reduce_boolean_decision=decide, root_device=torch.device("cpu")
    )
    check, model = DivergenceCheck(), Loss([], [])

    def train(step: int) -> None:
        trainer.global_step = step
        check.on_train_batch_end(trainer, model, torch.tensor(1.0), None, 0)

    for step in range(1, 20):
        train(step)
    assert asked == [False]
    with pytest.raises(DivergedError, match=r"after step 20 the loss is 1\.0"):
        train(20)
    assert asked == [False] * 3, "the loss at 10 and at 20, and the weights"


def test_the_margin_is_the_one_of_a_comparison() -> None:
    margin = inspect.signature(DivergenceCheck).parameters["margin"].default
    assert margin == Criteria().relapse
    with pytest.raises(ValueError, match="`margin` must be positive, but is nan"):
        DivergenceCheck(math.nan)


def test_the_log_has_a_line_a_validation(capsys: pytest.CaptureFixture[str]) -> None:
    losses([1.0] * 2, [3.0, 3.1])
    lines = [line[20:] for line in capsys.readouterr().err.splitlines() if " step " in line]
    assert lines == [
        "step 1 of 2, epoch 0: val_nll 3, best val_nll 3 after step 1, 0:00:00 elapsed, "
        "about 0:00:00 to go",
        "step 2 of 2, epoch 1: val_nll 3.1, best val_nll 3 after step 1, 0:00:00 elapsed, "
        "about 0:00:00 to go",
    ]


def test_the_log_has_a_line_a_minute_and_no_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admin_init.callbacks.fit_log.EVERY", 0)
    settings = {"limit_val_batches": 0, "enable_progress_bar": True}
    fit(pl, [1.0] * 2, model=Loss([1.0] * 2, []), callbacks=[FitLog()], **settings)
    out, err = capsys.readouterr()
    assert [line[20:46] for line in err.splitlines() if " step " in line] == [
        "step 1 of 2, epoch 0: 0:00",
        "step 2 of 2, epoch 1: 0:00",
    ]
    assert "Epoch" not in out
