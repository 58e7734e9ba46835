"""Findings of a study: measurements, a figure and sentences."""

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
    """All measurements: style, depth, seed and measured values."""
    summary: list[dict[str, str]]
    """The measurements over seeds, as the rows of a table."""
    sentences: list[str]
    """The findings in sentences."""
    figure: Figure
    """The measurements as a figure."""

    def save(self, folder: str | Path) -> list[Path]:
        """Write the figure, the text and the measurements (JSON); return their paths."""
        paths = [Path(folder) / f"{self.name}{ending}" for ending in (".png", ".md", ".json")]
        picture, text, measured = paths
        write_bytes(picture, png(self.figure))
        write_text(text, self.markdown())
        # Last, because its presence means that the study is complete.
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
        """Write the summary and the sentences in Markdown."""
        columns = list(self.summary[0])
        lines = [
            "| " + " | ".join(cells) + " |"
            for cells in (columns, ["---"] * len(columns), *(r.values() for r in self.summary))
        ]
        return "\n".join([*lines, "", *self.sentences]) + "\n"


def over_seeds(values: Iterable[float], form: str = ".3g") -> str:
    """Format the mean over seeds, with the smallest and the largest value in brackets.

    If a value is NaN, the measure is marked as not applicable.
    """
    values = list(values)
    if any(math.isnan(value) for value in values):
        return NOT_APPLICABLE
    mean, low, high = sum(values) / len(values), min(values), max(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"
