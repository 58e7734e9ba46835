"""Heat maps of layer dependency (arXiv 2004.08249, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from admin_init.admin_profile import AdminProfile
from admin_init.errors import import_extra
from admin_init.measures.dependency import profile_dependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def dependency_figure(profile: AdminProfile) -> Figure:
    """Draw the layer dependency of a profile, with one heat map per stack."""
    names = dict.fromkeys(site.stack for site in profile.sites)
    return draw_dependency({name: profile_dependency(profile, name) for name in names})


def draw_dependency(shares: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw layer dependencies, given by title, as a row of heat maps.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    # matplotlib is slow to import, and only figures need it.
    figure: Figure = import_extra("lab", "matplotlib.figure").Figure(
        figsize=(5 * len(shares), 4.2), layout="constrained"
    )
    axes = figure.subplots(1, len(shares), squeeze=False)[0]
    for axis, (name, beta) in zip(axes, shares.items(), strict=True):
        image = heat_map(axis, beta, title=f"{name}: what each output is made of")
        figure.colorbar(image, ax=axis, **COLOUR_BAR)
    return figure


COLOUR_BAR: dict[str, Any] = {
    "label": "share of standard deviation",
    "ticks": (0, 0.05, 0.2, 0.5, 1),
}
"""Label and ticks of the color bar of a :func:`heat_map`."""


def heat_map(axis: Axes, beta: NDArray[np.float64], title: str) -> AxesImage:
    """Draw a layer dependency on ``axis``."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    count = len(beta)
    image = axis.imshow(
        np.ma.masked_equal(beta, 0),
        cmap="viridis",
        # On a linear scale, the many small shares of a deep stack would look like 0.
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
