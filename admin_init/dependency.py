"""Which branch makes up how much of which output (arXiv 2004.08249, figure 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from admin_init.profile_data import AdminProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def layer_dependency(profile: AdminProfile, stack: str) -> NDArray[np.float64]:
    r"""Compute the share of every branch in every sub-layer's output, under the profile's omegas.

    Sub-layer i normalises :math:`\omega_i x_{i-1} + f_i`, so with independent branches its output
    is :math:`\sum_{j \le i} \beta_{ij} \hat f_j`, where :math:`\hat f_j` is branch j divided by its
    standard deviation, :math:`\hat f_0` the embedding, and :math:`\sum_j \beta_{ij}^2 = 1`.

    Args:
        profile: Variances and omegas.
        stack: Which of the profile's stacks.

    Returns:
        beta, of shape (sub-layers, sub-layers + 1); column 0 is the embedding.

    Raises:
        ValueError: The profile has no such stack.
    """
    sites = [site for site in profile.sites if site.stack == stack]
    if not sites:
        known = sorted({site.stack for site in profile.sites})
        raise ValueError(f"`stack` must be one of {known}, but is {stack!r}.")
    return dependency_from_variances(
        [site.omega**2 * site.shortcut_variance for site in sites],
        [site.variance for site in sites],
    )


def dependency_from_variances(
    shortcut: Sequence[float], branch: Sequence[float]
) -> NDArray[np.float64]:
    """Compute the shares of one stack from the variances of its residual sums' terms.

    Args:
        shortcut: Of each sub-layer in turn, the variance of the shortcut as it enters the sum.
        branch: The same of the branch.

    Returns:
        beta, of shape (sub-layers, sub-layers + 1); column 0 is the embedding.

    Raises:
        ValueError: Both terms of a sub-layer are constant.
    """
    beta = np.zeros((len(branch), len(branch) + 1))
    shares = np.zeros(len(branch) + 1)
    shares[0] = 1.0
    for i, (x, f) in enumerate(zip(shortcut, branch, strict=True)):
        if x + f == 0:
            raise ValueError(
                f"The shortcut and the branch of sub-layer {i + 1} are both constant, so its "
                "output is made of nothing. Measure on a batch that holds different tokens."
            )
        shares *= math.sqrt(x / (x + f))
        shares[i + 1] = math.sqrt(f / (x + f))
        beta[i] = shares
    return beta


def dependency_figure(profile: AdminProfile) -> Figure:
    """Draw :func:`layer_dependency` of each stack as a heat map."""
    names = dict.fromkeys(site.stack for site in profile.sites)
    return draw_dependency({name: layer_dependency(profile, name) for name in names})


def draw_dependency(shares: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw the shares of :func:`dependency_from_variances`, by title, as heat maps in a row."""
    # matplotlib is heavy, and only pictures need it.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5 * len(shares), 4.2), layout="constrained")
    axes = figure.subplots(1, len(shares), squeeze=False)[0]
    for axis, (name, beta) in zip(axes, shares.items(), strict=True):
        image = heat_map(axis, beta, title=f"{name}: what each output is made of")
        figure.colorbar(image, ax=axis, **COLOUR_BAR)
    return figure


COLOUR_BAR: dict[str, Any] = {
    "label": "share of standard deviation",
    "ticks": (0, 0.05, 0.2, 0.5, 1),
}
"""What the colour bar of a :func:`heat_map` says."""


def heat_map(axis: Axes, beta: NDArray[np.float64], title: str) -> AxesImage:
    """Draw the shares of :func:`dependency_from_variances` into a panel."""
    # Late, with the rest of matplotlib.
    from matplotlib.colors import PowerNorm  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    count = len(beta)
    image = axis.imshow(
        np.ma.masked_equal(beta, 0),
        cmap="viridis",
        # A deep stack has many small shares, which a linear scale would not tell from none.
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, count + 0.5, 0.5, count + 0.5),
    )
    axis.set(title=title, xlabel="branch of sub-layer (0: embedding)", ylabel="output of sub-layer")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return image
