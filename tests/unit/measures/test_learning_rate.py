"""Learning-rate sensitivity, and the judge of a learning-rate ramp."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from admin_init.measures import RAMP_PEAK, LargestStableRate, lr_sensitivity

STEPS = 400
RATES = [RAMP_PEAK * (step + 1) / STEPS for step in range(STEPS)]


def test_sensitivity_by_hand() -> None:
    losses = {1e-3: 3.0, 3e-3: 2.0, 1e-2: 5.0, 3e-2: 9.0}
    # min(loss, 7) is 3, 2, 5, 7: 4.25 on average.
    assert lr_sensitivity(losses, initial_loss=7.0) == pytest.approx(2.25)


def test_a_run_that_diverged_counts_as_one_that_learned_nothing() -> None:
    expected = lr_sensitivity({1e-3: 2.0, 1e-2: 7.0}, 7.0)
    assert expected == pytest.approx(2.5)
    for diverged in (math.nan, math.inf, 100.0):
        assert lr_sensitivity({1e-3: 2.0, 1e-2: diverged}, 7.0) == expected


def test_a_method_that_does_not_care_has_no_sensitivity() -> None:
    assert lr_sensitivity(dict.fromkeys((1e-3, 1e-2, 1e-1), 2.0), 7.0) == 0


def test_sensitivity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="is empty"):
        lr_sensitivity({}, 7.0)
    with pytest.raises(ValueError, match="`initial_loss` must be finite, but is nan"):
        lr_sensitivity({1e-3: 1.0}, math.nan)


def judged(loss_at: Callable[[int], float], **settings: float) -> LargestStableRate:
    judge = LargestStableRate(**settings)  # type: ignore[arg-type]
    for step, rate in enumerate(RATES):
        if judge.update(rate, loss_at(step)):
            break
    return judge


def falling(step: int) -> float:
    return 7.0 - 0.01 * step


def test_a_run_that_bears_the_whole_ramp_keeps_its_last_rate() -> None:
    judge = judged(falling)
    assert judge.rate == RAMP_PEAK == 5e-2
    assert (judge.diverged_at, judge.reason, judge.step) == (None, None, STEPS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_at_once(value: float) -> None:
    judge = judged(lambda step: value if step >= 150 else falling(step))
    assert judge.diverged_at == 150
    assert judge.rate == RATES[149]
    assert judge.reason == f"the loss is {value}"


def test_a_first_loss_that_is_not_finite_leaves_no_rate() -> None:
    judge = judged(lambda step: math.nan)
    assert (judge.rate, judge.diverged_at) == (0.0, 0)


def test_an_unrecovered_spike_counts_from_where_it_began() -> None:
    judge = judged(lambda step: falling(step) + 2 * (step >= 200))
    # A median of 11 has gone up once 6 of them have.
    assert judge.diverged_at == 205
    assert judge.rate == RATES[204]
    assert judge.step == 255
    assert "did not come back" in str(judge.reason)


def test_a_spike_that_recovers_is_none() -> None:
    judge = judged(lambda step: falling(step) + 2 * (200 <= step < 230))
    assert judge.diverged_at is None
    assert judge.rate == RAMP_PEAK
    impatient = judged(lambda step: falling(step) + 2 * (200 <= step < 230), recovery=20)
    assert impatient.diverged_at == 205


def test_one_bad_batch_is_no_spike() -> None:
    assert judged(lambda step: falling(step) + 9 * (step % 20 == 7), recovery=1).reason is None


def test_a_spike_to_nan_began_with_the_spike() -> None:
    judge = judged(lambda step: math.nan if step == 220 else falling(step) + 2 * (step >= 200))
    assert judge.diverged_at == 205
    assert judge.reason == "the loss is nan"


def test_stagnation_counts_from_the_last_progress() -> None:
    judge = judged(lambda step: falling(min(step, 100)))
    # The median of 11 reaches the plateau 5 steps after the loss.
    assert judge.diverged_at == 106
    assert judge.rate == RATES[105]
    assert "stagnated" in str(judge.reason)


def test_a_spike_is_no_time_for_progress() -> None:
    def loss(step: int) -> float:
        return falling(step) if step < 170 else falling(170) + 2 * (200 <= step < 240)

    judge = judged(loss)
    assert judge.diverged_at == 176
    # 50 steps of plateau, and the 40 of the spike.
    assert judge.step == 176 + 50 + 40


def test_slow_convergence_is_stagnation() -> None:
    slow = judged(lambda step: 7.0 - 1e-4 * step)
    assert slow.diverged_at == 1
    assert judged(lambda step: 7.0 - 2e-3 * step).diverged_at is None
    assert judged(lambda step: 7.0 - 1e-4 * step, progress=0.004).diverged_at is None


def test_noise_does_not_decide() -> None:
    judge = judged(lambda step: falling(step) + 0.3 * math.sin(1.7 * step))
    assert judge.diverged_at is None


def test_a_run_that_has_diverged_stays_so() -> None:
    judge = judged(lambda step: math.nan if step == 150 else falling(step))
    assert judge.update(0.04, 1.0)
    assert (judge.rate, judge.diverged_at) == (RATES[149], 150)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="`window` is 0, `patience` is -1"):
        LargestStableRate(window=0, patience=-1)
