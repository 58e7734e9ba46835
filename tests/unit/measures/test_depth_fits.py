"""Fits of the output change over depth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from admin_init.measures import depth_fits, growth_exponent


def test_fits_find_the_line_and_the_logarithm_that_made_the_points() -> None:
    depths = [6, 12, 18, 36, 60, 100]
    line = depth_fits(depths, [0.5 + 0.02 * n for n in depths])
    assert (line.linear.intercept, line.linear.slope) == pytest.approx((0.5, 0.02))
    assert line.linear.r2 == pytest.approx(1)
    assert line.logarithmic.r2 < 0.95
    logarithm = depth_fits(depths, [1 + 3 * math.log(n) for n in depths])
    assert logarithm.linear.r2 < 0.95
    fit = logarithm.logarithmic
    assert (fit.intercept, fit.slope, fit.r2) == pytest.approx((1, 3, 1))


def test_r2_is_the_squared_correlation() -> None:
    depths, changes = [6, 6, 12, 18, 36], [1.0, 1.4, 1.9, 2.0, 2.2]
    fits = depth_fits(depths, changes)
    assert fits.linear.r2 == pytest.approx(np.corrcoef(depths, changes)[0, 1] ** 2)
    assert fits.logarithmic.r2 == pytest.approx(np.corrcoef(np.log(depths), changes)[0, 1] ** 2)


def test_a_change_that_is_the_same_at_all_depths_has_no_slope() -> None:
    fits = depth_fits([6, 12, 18], [2.0, 2.0, 2.0])
    assert fits.linear.slope == pytest.approx(0, abs=1e-12)
    assert fits.linear.intercept == pytest.approx(2)


def test_the_exponent_is_that_of_the_power() -> None:
    depths = [12, 24, 36, 72, 120, 200]
    assert growth_exponent(depths, [0.3 * n**0.7 for n in depths]) == pytest.approx(0.7)
    assert growth_exponent(depths, [2.0] * 6) == pytest.approx(0, abs=1e-12)
    assert growth_exponent(depths, np.log(depths).tolist()) == pytest.approx(0.27, abs=0.01)
    assert math.isnan(growth_exponent(depths, [0.0, *[1.0] * 5]))


@pytest.mark.parametrize("fit", [depth_fits, growth_exponent])
@pytest.mark.parametrize(
    ("depths", "changes", "message"),
    [
        ([6, 12], [1.0, 2.0], "three different depths"),
        ([6, 6, 6], [1.0, 2.0, 3.0], "three different depths"),
        ([6, 12, 18], [1.0, 2.0], "equally long"),
        ([6, 12, 18], [1.0, math.nan, 2.0], "finite"),
        ([0, 12, 18], [1.0, 1.0, 2.0], "positive"),
    ],
)
def test_points_that_cannot_be_fitted_are_refused(
    fit: Callable[[list[int], list[float]], object],
    depths: list[int],
    changes: list[float],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(depths, changes)
