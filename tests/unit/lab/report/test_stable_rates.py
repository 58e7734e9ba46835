"""The largest stable learning rate, judged from the losses of a ramp."""

import math
from typing import Any

import numpy as np
import pytest
from test_report import result

from admin_init.errors import AdminInitError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.history import Course, Validation
from admin_init.lab.comparison.run import build
from admin_init.lab.comparison.runner import Outcome
from admin_init.lab.report.page import sentences, table
from admin_init.lab.report.stable_rates import judge_ramp, ramp_figure, ramp_summary

RAMP = Comparison(ramp=True, max_steps=100)


def ramped(residual: str, losses: list[float], **changed: Any) -> Any:
    history = Course(
        train_loss=losses,
        grad_norm=[1.0] * len(losses),
        validation=[Validation(len(losses), 1.0, 0.0)],
        seconds=1.0,
    )
    return result(residual, learning_rate=0.05, history=history, **changed)


FALLING = [5 - 0.03 * step for step in range(100)]
BROKEN = [*FALLING[:40], *[math.nan] * 3]


def test_the_rate_before_a_divergence() -> None:
    """By hand: the last of 40 good steps is number 39 from 0, at 39 / 100 of the ramp."""
    judge = judge_ramp(RAMP, ramped("post", BROKEN))
    assert judge.diverged_at == 40
    assert judge.rate == pytest.approx(0.05 * 39 / 100)
    steady = judge_ramp(RAMP, ramped("pre", FALLING))
    assert steady.diverged_at is None
    assert steady.rate == pytest.approx(0.05 * 99 / 100)


def test_styles_are_ranked_by_what_they_bear() -> None:
    runs = [
        ramped("post", BROKEN),
        ramped("post", [*FALLING[:20], math.inf], seed=2),
        ramped("pre", FALLING),
    ]
    (sentence,) = ramp_summary(RAMP, runs)
    assert sentence == (
        "Largest stable learning rate at 18-18 layers, on a ramp to 0.05 in 100 updates: Pre-LN "
        "0.0495, Post-LN 0.0145 (0.0095-0.0195)."
    )
    assert sentences(RAMP, Outcome(runs, {}, 4.0)) == [sentence]
    assert [column.header for column in table(RAMP, Outcome(runs, {}, 4.0)).columns] == [
        "style", "layers", "largest stable lr", "diverged", "why"
    ]  # fmt: skip
    (axis,) = ramp_figure(RAMP, runs).axes
    drawn = [float(np.asarray(line.get_ydata())[0]) for line in axis.lines]
    assert drawn == pytest.approx([0.0195, 0.0095, 0.0495])
    assert [line.get_fillstyle() for line in axis.lines] == ["full", "full", "none"]


def test_the_learning_rate_grows_from_nothing_to_the_last_update() -> None:
    (variant,) = Comparison().grid.variants()[:1]
    optimization = build(RAMP, variant, 20).optimization
    rates = [optimization.factor(step) for step in (0, 50, 100)]
    assert rates == pytest.approx([0, 0.5, 1])


def test_a_ramp_needs_to_know_its_length() -> None:
    with pytest.raises(AdminInitError, match="`ramp` needs `max_steps`"):
        Comparison(ramp=True, max_steps=None, max_minutes=1.0)
