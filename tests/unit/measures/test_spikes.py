"""Loss spikes."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_init.measures import SpikeDetector


def spikes(losses: list[float], **options: float) -> list[int]:
    detector = SpikeDetector(**options)  # type: ignore[arg-type]
    return [step for step, loss in enumerate(losses) if detector.update(loss)]


def test_a_loss_above_the_median_by_more_than_the_margin_is_a_spike() -> None:
    losses = [2.0, 2.0, 2.05, 2.5, 2.0, 2.09]
    assert spikes([*losses, 2.12]) == [3]
    # The median of the six is 2.025.
    assert spikes([*losses, 2.13]) == [3, 6]


def test_the_first_loss_and_a_falling_one_are_none() -> None:
    assert spikes([9.0]) == []
    assert spikes([9.0 - 0.01 * step for step in range(500)]) == []


def test_a_spike_hardly_moves_what_the_next_is_compared_with() -> None:
    assert spikes([2.0] * 10 + [50.0, 50.0, 50.0] + [2.0]) == [10, 11, 12]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 9))
def test_the_median_is_that_of_the_window_before(losses: list[float], window: int) -> None:
    expected = [
        step
        for step in range(1, len(losses))
        if losses[step] > np.median(losses[max(0, step - window) : step]) + 0.1
    ]
    assert spikes(losses, window=window) == expected


def test_the_window_is_201_steps() -> None:
    # 101 of the last 201 are high only once the first hundred low ones have been left behind.
    low, high = [1.0] * 300, [5.0] * 101
    assert spikes(low + high + [5.0]) == list(range(300, 401))


def test_a_loss_that_is_not_finite_is_a_spike_where_it_begins() -> None:
    losses = [2.0, math.nan, math.inf, 2.0, -math.inf, math.nan]
    assert spikes(losses) == [1, 4]
    detector = SpikeDetector()
    assert detector.update(math.nan)
    assert math.isnan(detector.median)


def test_a_resumed_detector_goes_on() -> None:
    losses = [2.0, 2.3, 1.0, 9.0, math.nan, math.nan, 1.0, 1.5]
    for cut in range(len(losses)):
        first, second = SpikeDetector(window=3), SpikeDetector(window=3)
        before = [first.update(loss) for loss in losses[:cut]]
        second.load_state_dict(first.state_dict())
        found = before + [second.update(loss) for loss in losses[cut:]]
        assert [i for i, spike in enumerate(found) if spike] == spikes(losses, window=3)


def test_the_median_so_far_can_be_read() -> None:
    detector = SpikeDetector()
    for loss in (3.0, 1.0, 2.5):
        detector.update(loss)
    assert detector.median == statistics.median([3.0, 1.0, 2.5])


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": math.nan}, {"window": 0}])
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="`margin` must be at least 0 and `window` at least 1"):
        SpikeDetector(**options)  # type: ignore[arg-type]
