"""What a study found: figures, a picture, and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from admin_init._utils.atomic_files import write_bytes, write_json, write_text
from admin_init.lab.plotting import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Result of a study."""

    name: str
    """Name of the study, and of its files."""
    rows: list[dict[str, Any]]
    """Every single measurement: style, depth, seed and what was measured."""
    summary: list[dict[str, str]]
    """The same over seeds, as a table shows it."""
    sentences: list[str]
    """What it shows."""
    figure: Figure

    def save(self, folder: str | Path) -> list[Path]:
        """Write the measurements (JSON), the picture and the text; return their paths."""
        paths = [Path(folder) / f"{self.name}{ending}" for ending in (".png", ".md", ".json")]
        picture, text, measured = paths
        write_bytes(picture, png(self.figure))
        write_text(text, self.markdown())
        # Last, because it stands for all of them.
        content = {"rows": self.rows, "summary": self.summary, "sentences": self.sentences}
        write_json(measured, content)
        return paths

    def table(self) -> Table:
        """Lay out the summary for a terminal."""
        view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        columns = list(self.summary[0])
        for column in columns:
            view.add_column(column, justify="left" if column == columns[0] else "right")
        for row in self.summary:
            view.add_row(*row.values())
        return view

    def markdown(self) -> str:
        """Lay out the summary and the sentences for a page."""
        columns = list(self.summary[0])
        lines = [
            "| " + " | ".join(cells) + " |"
            for cells in (columns, ["---"] * len(columns), *(r.values() for r in self.summary))
        ]
        return "\n".join([*lines, "", *self.sentences]) + "\n"


def over_seeds(values: Iterable[float], form: str = ".3g") -> str:
    """Write the mean over seeds, and in brackets the smallest and the largest value.

    A measure that is NaN for a seed is not applicable.
    """
    values = list(values)
    if any(math.isnan(value) for value in values):
        return NOT_APPLICABLE
    mean, low, high = sum(values) / len(values), min(values), max(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"
