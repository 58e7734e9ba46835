"""How the output change grows with depth (arXiv 2004.08249, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fit:
    """A least-squares line ``intercept + slope * u``."""

    intercept: float
    slope: float
    r2: float
    """Share of the variance that it explains; 1 at best."""


@dataclass(frozen=True)
class Fits:
    """How the output change grows with the depth N, in sub-layers."""

    linear: Fit
    """Over u = N: what is expected of Post-LN."""
    logarithmic: Fit
    """Over u = ln N: what is expected of Admin and Pre-LN."""


def depth_fits(depths: Sequence[int], changes: Sequence[float]) -> Fits:
    """Fit output changes to ``a + b * N`` and to ``a + b * ln(N)`` by least squares.

    Args:
        depths: Numbers N of sub-layers; three different ones at least.
        changes: The change at each of them, see :func:`output_change`. Several seeds at one depth
            are so many points.

    Returns:
        Both fits.

    Raises:
        ValueError: The points are too few, do not match, or are not positive and finite.
    """
    n, y = _points(depths, changes)
    return Fits(linear=_fit(n, y), logarithmic=_fit(np.log(n), y))


def growth_exponent(depths: Sequence[int], changes: Sequence[float]) -> float:
    """Fit output changes to ``a * N ** b`` by least squares of their logarithms, and return b.

    It is 1 for growth in proportion to N and 0 for none. Unlike the fits of :func:`depth_fits` it
    weighs all depths alike where the noise is in proportion to the change, as that between the
    seeds of a deep Post-LN stack is. For what growth in proportion to ln(N) makes of it, pass
    ``np.log(depths)`` as the changes: .27 over 12 to 200 sub-layers.

    Args:
        depths: Numbers N of sub-layers; three different ones at least.
        changes: The change at each of them.

    Returns:
        The exponent b; NaN where a change is 0.

    Raises:
        ValueError: The points are too few, do not match, or are not positive and finite.
    """
    n, y = _points(depths, changes)
    if not (y > 0).all():
        return math.nan
    return float(np.polyfit(np.log(n), np.log(y), 1)[0])


def _points(
    depths: Sequence[int], changes: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = np.asarray(depths, dtype=np.float64)
    y = np.asarray(changes, dtype=np.float64)
    if n.shape != y.shape or len(np.unique(n)) < 3:
        raise ValueError(
            "`depths` and `changes` must be equally long and hold three different depths at "
            f"least, but are {list(depths)} and {list(changes)}."
        )
    if not (np.isfinite(y).all() and (n > 0).all()):
        raise ValueError(
            "`depths` must be positive and `changes` finite, but are "
            f"{list(depths)} and {list(changes)}. Leave out the models that overflowed."
        )
    return n, y


def _fit(u: NDArray[np.float64], y: NDArray[np.float64]) -> Fit:
    slope, intercept = np.polyfit(u, y, 1)
    residual = y - (intercept + slope * u)
    total = ((y - y.mean()) ** 2).sum()
    # Of points that do not vary there is nothing to explain.
    r2 = 1 - (residual**2).sum() / total if total else 0.0
    return Fit(float(intercept), float(slope), float(r2))
