"""Growth of the output change with depth (arXiv 2004.08249, section 4)."""

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
    """Share of the variance that the line explains; at most 1."""


@dataclass(frozen=True)
class Fits:
    """Fits of the output change over the depth N, in sub-layers."""

    linear: Fit
    """Fit over u = N, the growth expected of Post-LN."""
    logarithmic: Fit
    """Fit over u = ln N, the growth expected of Admin and Pre-LN."""


def depth_fits(depths: Sequence[int], changes: Sequence[float]) -> Fits:
    """Fit output changes to ``a + b * N`` and to ``a + b * ln(N)`` by least squares.

    Args:
        depths: Numbers N of sub-layers, at least three different ones.
        changes: Output change at each depth, see :func:`output_change`. A depth may occur several
            times, for example with several seeds.

    Returns:
        Both fits.

    Raises:
        ValueError: There are too few points, the lengths differ, a depth is not positive, or a
            change is not finite.

    Examples:
        >>> round(depth_fits([12, 24, 48], [1.0, 2.0, 4.0]).linear.r2, 6)
        1.0
    """
    n, y = _points(depths, changes)
    return Fits(linear=_fit(n, y), logarithmic=_fit(np.log(n), y))


def growth_exponent(depths: Sequence[int], changes: Sequence[float]) -> float:
    """Fit output changes to ``a * N ** b`` by least squares of their logarithms, and return b.

    The exponent is 1 for growth proportional to N and 0 for no growth. Unlike :func:`depth_fits`,
    this fit weighs all depths equally if the noise is proportional to the change, which is the case
    between the seeds of a deep Post-LN stack. Growth proportional to ln(N) has no single exponent;
    pass ``np.log(depths)`` as the changes for reference: .27 over 12 to 200 sub-layers.

    Args:
        depths: Numbers N of sub-layers, at least three different ones.
        changes: Output change at each depth.

    Returns:
        The exponent b; NaN if a change is not positive.

    Raises:
        ValueError: There are too few points, the lengths differ, a depth is not positive, or a
            change is not finite.

    Examples:
        >>> round(growth_exponent([12, 24, 48], [1.0, 2.0, 4.0]), 6)
        1.0
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
            "`depths` and `changes` must be equally long and have at least three different "
            f"depths, but are {list(depths)} and {list(changes)}."
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
    # Constant points have no variance to explain.
    r2 = 1 - (residual**2).sum() / total if total else 0.0
    return Fit(float(intercept), float(slope), float(r2))
