"""Translations of several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from _helpers.command_line import call
from _helpers.forked import run

PREDICT = [
    *("predict", "--config", "fit.yaml", "--ckpt_path", "run/last.ckpt"),
    *("--data.max_tokens", "40", "--model.search.max_len_b", "9"),
]


@pytest.mark.usefixtures("here")
def test_two_processes_predict_what_one_does() -> None:
    """In the order of the split, written by the first alone."""
    alone = call(*PREDICT)
    assert alone.code == 0, alone.err
    lines = alone.out.splitlines()
    assert len(lines) == 10
    assert run(*PREDICT, "--trainer.devices=2", "--trainer.strategy=ddp", ranks=2).code == 0
    first, second = (Path(f"output-{rank}.txt").read_text("utf-8") for rank in range(2))
    assert first.splitlines()[-10:] == lines
    assert not set(lines) & set(second.splitlines())


@pytest.mark.usefixtures("here")
def test_processes_that_hand_nothing_back_are_refused() -> None:
    done = call(*PREDICT, "--trainer.devices=2", "--trainer.strategy=ddp_spawn")
    assert (done.code, done.out) == (2, "")
    assert "Use `--trainer.strategy ddp`, or one device." in done.err.splitlines()[-1]
