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
from admin_init.lab.curves import curves, gradient_norms, outcomes
from admin_init.lab.groups import Group, groups, interval
from admin_init.lab.pictures import png
from admin_init.lab.result import Result
from admin_init.lab.stable_rates import ramp_cells, ramp_figure, ramp_summary
from admin_init.lab.steps import studied
from admin_init.lab.summary import sensitivities, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COURSE = (
    "Training loss, validation NLL and gradient norm of all runs; a cross marks a loss spike, more "
    "than .1 above the rolling median of the last 201 updates"
)
_WORDS = ("style", "layers", "outcome", "seeds trained", "why")
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
    pictures = {}
    if comparison.ramp:
        title = "Largest stable learning rate of every run"
        pictures[title] = png(ramp_figure(comparison, outcome.results))
    else:
        title = "Final validation NLL of every run"
        pictures[title] = png(outcomes(outcome.results, outcome.entropy))
    pictures |= {_COURSE: picture}
    if by_layer is not None:
        pictures["Gradient norm of every sub-layer at the first validation"] = png(by_layer)
    templates = Environment(loader=PackageLoader("admin_init.lab"), autoescape=True)
    page = templates.get_template("report.html.jinja").render(
        comparison=comparison,
        outcome=outcome,
        words=_WORDS,
        styles=_styles(comparison, outcome),
        runs=[
            (run, _run_cells(group, run)) for group in groups(outcome.results) for run in group.runs
        ],
        signatures=sorted({r.bleu_signature for r in outcome.results if r.bleu_signature}),
        summary=sentences(comparison, outcome),
        sensitivities=sensitivities(outcome.results),
        studies=[
            (step, base64.b64encode(step.picture.read_bytes()).decode())
            for step in studied(comparison)
        ],
        pictures={title: base64.b64encode(content).decode() for title, content in pictures.items()},
    )
    write_text(folder / "report.html", page)


def sentences(comparison: Comparison, outcome: Outcome) -> list[str]:
    """Say what came out."""
    if comparison.ramp:
        return ramp_summary(comparison, outcome.results)
    return summary(outcome.results)


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
    rows = _styles(comparison, outcome)
    for title in rows[0][1] if rows else ():
        view.add_column(title, justify="left" if title in _WORDS else "right", overflow="fold")
    for group, cells in rows:
        failed = group.failure is not None and not comparison.ramp
        view.add_row(*cells.values(), style="red" if failed else "")
    return view


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    # JSON knows neither NaN nor infinity; the reason of a run that ended in one says so.
    lost = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return row | lost


def _styles(comparison: Comparison, outcome: Outcome) -> list[tuple[Group, dict[str, str]]]:
    """Lay out a row for each style and setting, without columns that have nothing to say."""
    rows = [
        (group, ramp_cells(comparison, group) if comparison.ramp else _group_cells(group))
        for group in groups(outcome.results)
    ]
    empty = {title for title in ("BLEU",) if not any(cells.get(title) for _, cells in rows)}
    return [(group, {k: v for k, v in cells.items() if k not in empty}) for group, cells in rows]


def _group_cells(group: Group) -> dict[str, str]:
    runs = group.runs
    return {
        "style": group.style,
        "layers": group.setting.replace(" layers", ""),
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
        "layers": group.setting.replace(" layers", ""),
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
