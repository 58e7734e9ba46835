"""Trainings that become NaN, and checkpoints that hold it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from _helpers.command_line import call
from _helpers.small_run import LAST, fit

DIVERGING = ["--model.optimization.learning_rate=1e30", "--model.optimization.warmup_steps=1"]

READERS = {
    "fit": ["fit", "--config", "fit.yaml", "--ckpt_path", "nan.ckpt"],
    "validate": ["validate", "--config", "fit.yaml", "--ckpt_path", "nan.ckpt"],
    "test": ["test", "--config", "fit.yaml", "--ckpt_path", "nan.ckpt"],
    "predict": ["predict", "--config", "fit.yaml", "--ckpt_path", "nan.ckpt"],
    "translate": ["translate", "--checkpoint", "nan.ckpt"],
    "fold": ["fold", "nan.ckpt", "folded.ckpt"],
    "average": ["average", "--checkpoints", str(LAST), "nan.ckpt", "--output", "average.ckpt"],
    "convert": ["convert", "nan.ckpt", "converted.pt"],
    "diagnose": ["diagnose", "--recipe=fit.yaml", "--checkpoint=nan.ckpt", "--output=diagnosis"],
}


def test_a_training_that_diverges_says_so_and_leaves_the_last_good_checkpoint(here: Path) -> None:
    before = LAST.read_bytes()
    done = call("fit", "--config", "fit.yaml", "--trainer.max_steps=9", *DIVERGING)
    assert done.code == 1
    assert not done.out
    last = done.err.splitlines()[-1]
    assert re.fullmatch(
        r"admin-init fit: the training diverged and was stopped: after step \d the loss is nan "
        r"\(\d+\.\d+ after step \d\), as is the weight `transformer\..*`; no earlier validation "
        r"was finite\. Try a lower learning rate, a longer warm-up or gradient clipping\.",
        last,
    )
    assert "Traceback" not in done.err
    assert LAST.read_bytes() == before


@pytest.mark.parametrize("command", READERS)
def test_a_checkpoint_of_nan_is_refused(command: str, here: Path) -> None:
    checkpoint = torch.load(LAST, weights_only=True)
    weights = checkpoint["state_dict"]
    first = next(name for name in weights if name.endswith(".omega"))
    weights[first][0] = torch.nan
    torch.save(checkpoint, "nan.ckpt")
    before = set(here.rglob("*"))
    done = call(*READERS[command], stdin=b"a\n")
    assert done.code == 2, done.err
    assert not done.out
    assert done.err.splitlines()[-1] == (
        f"admin-init {command}: nan.ckpt contains NaN in 1 of its {len(weights)} weights, first in "
        f"`{first}`. The training had diverged when it was saved; use an earlier "
        "checkpoint."
    )
    assert "Traceback" not in done.err
    assert set(here.rglob("*")) == before


def test_the_log_of_a_training_is_news_alone(here: Path) -> None:
    done = call(*fit("resumed", "--trainer.max_steps=14"))
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if " val_nll " in line]
    stamp, number = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\d+\.?\d*"
    assert re.fullmatch(
        rf"{stamp} step 12 of 14, epoch \d: train_loss {number}, val_nll {number}, "
        rf"best val_nll {number} after step (6|12), 0:00:\d\d elapsed, about 0:00:\d\d to go",
        lines[-1],
    )
    for noise in ("Tip", "LeafSpec", "GPU available: False", "TPU", "many workers", "\x1b"):
        assert noise not in done.err
