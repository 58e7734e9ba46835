"""What the lab's pictures have in common: readable in grey, and by the colour-blind."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from admin_init.errors import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart; line styles serve a grey print.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (8, 3)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def look(index: int) -> dict[str, Any]:
    """Return colour and line style of the curve number ``index``, from 0."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


def panels(count: int, columns: int = 4, width: float = 3.4, height: float = 2.7) -> Any:
    """Make a figure of ``count`` panels; returns it and its axes, as many as asked for."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (width * columns, height * rows)
    figure = import_extra("lab", "matplotlib.figure").Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for empty in axes[count:]:
        empty.set_axis_off()
    return figure, axes[:count]


def tidy(axis: Axes) -> None:
    """Leave of an axis what helps to read it."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()
