"""Style of the lab's figures: readable in grayscale print and by color-blind people."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from admin_init.errors import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, made for colour-blind people; the line styles are for grey print.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (8, 3)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def line_style(index: int) -> dict[str, Any]:
    """Return the colour and the line style of curve number ``index``, from 0."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


def subplots_grid(
    count: int, columns: int = 4, width: float = 3.4, height: float = 2.7
) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``count`` panels, each ``width`` by ``height`` inches.

    Returns:
        The figure and its ``count`` axes.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (width * columns, height * rows)
    figure = import_extra("lab", "matplotlib.figure").Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for empty in axes[count:]:
        empty.set_axis_off()
    return figure, axes[:count]


def style_axis(axis: Axes) -> None:
    """Add a light grid to an axis, and remove its upper and right edge."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()
