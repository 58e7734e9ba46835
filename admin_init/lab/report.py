"""Show what came of a comparison: a table, pictures, a page."""

from __future__ import annotations

import base64
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from rich import box
from rich.markup import escape
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from admin_init.files import write_text, write_whole
from admin_init.lab.compare import Outcome
from admin_init.lab.comparison import Comparison
from admin_init.lab.curves import curves, gradient_norms
from admin_init.lab.groups import Group, groups, interval
from admin_init.lab.pictures import png
from admin_init.lab.result import Result
from admin_init.lab.summary import sensitivities, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORDS = ("style", "setting", "outcome", "seeds trained")
"""Columns that are aligned as words."""


def write_report(comparison: Comparison, outcome: Outcome) -> None:
    """Write ``results.jsonl``, ``report.png`` and ``report.html`` into the comparison's folder.

    The page is self-contained: its pictures are part of it, and it loads nothing.
    """
    folder = Path(comparison.output)
    lines = (json.dumps(_finite(result.row())) + "\n" for result in outcome.results)
    write_text(folder / "results.jsonl", "".join(lines))
    course = curves(outcome.results, outcome.entropy)
    picture = png(course)
    write_whole(folder / "report.png", lambda file: file.write(picture))
    by_layer = gradient_norms(outcome.results)
    _show_in_tensorboard(folder / "report", {"course": course, "gradient norm by layer": by_layer})
    pictures = {"Training loss, validation NLL and gradient norm of all runs": picture}
    if by_layer is not None:
        pictures["Gradient norm of every sub-layer at the first validation"] = png(by_layer)
    found = groups(outcome.results)
    templates = Environment(loader=PackageLoader("admin_init.lab"), autoescape=True)
    page = templates.get_template("report.html.jinja").render(
        comparison=comparison,
        outcome=outcome,
        words=_WORDS,
        styles=[(group, _group_cells(group)) for group in found],
        runs=[(run, _run_cells(group, run)) for group in found for run in group.runs],
        signatures=sorted({r.bleu_signature for r in outcome.results if r.bleu_signature}),
        summary=summary(outcome.results),
        sensitivities=sensitivities(outcome.results),
        pictures={title: base64.b64encode(content).decode() for title, content in pictures.items()},
    )
    write_text(folder / "report.html", page)


def _show_in_tensorboard(folder: Path, figures: dict[str, Figure | None]) -> None:
    # Its events are added to those that lie there, and the report replaces the one before.
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for title, figure in figures.items():
            if figure is not None:
                writer.add_figure(title, figure)


def table(comparison: Comparison, outcome: Outcome) -> Table:
    """Lay out the results for a terminal: a line for each style and setting, over its seeds."""
    view = Table(title=escape(comparison.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows = [(group, _group_cells(group)) for group in groups(outcome.results)]
    for title in rows[0][1] if rows else ():
        view.add_column(title, justify="left" if title in _WORDS else "right", overflow="fold")
    for group, cells in rows:
        view.add_row(*cells.values(), style="" if group.failure is None else "red")
    return view


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    # JSON knows neither NaN nor infinity; the reason of a run that ended in one says so.
    lost = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return row | lost


def _group_cells(group: Group) -> dict[str, str]:
    runs = group.runs
    return {
        "style": group.style,
        "setting": group.setting,
        "seeds trained": f"{group.trained} of {len(runs)}",
        "val NLL": interval(group.nlls, 2),
        "source gain": interval([run.source_gain for run in runs], 2),
        "BLEU": interval([run.bleu for run in runs if run.bleu is not None], 1),
        "grad norm": interval([run.grad_norm for run in runs], 2),
        "seconds": f"{sum(run.seconds for run in runs) / len(runs):.0f}",
    }


def _run_cells(group: Group, run: Result) -> dict[str, str]:
    return {
        "style": group.style,
        "setting": group.setting,
        "seed": str(run.seed),
        "outcome": "trained" if run.trained else "failed",
        "val NLL": f"{run.val_nll:.3f}",
        "source gain": f"{run.source_gain:.3f}",
        "BLEU": "" if run.bleu is None else f"{run.bleu:.1f}",
        "grad norm": f"{run.grad_norm:.3g}",
        "spikes": str(len(run.history.get("spikes", []))),
        "updates": str(run.updates),
        "seconds": f"{run.seconds:.0f}",
    }
