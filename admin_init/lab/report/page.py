"""The report of a comparison: a table for the terminal, figures, and an HTML page."""

from __future__ import annotations

import base64
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import Environment, PackageLoader
from rich import box
from rich.markup import escape
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from admin_init._utils.atomic_files import remove, write_bytes, write_text
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.result import Result
from admin_init.lab.comparison.runner import Outcome
from admin_init.lab.plotting import png
from admin_init.lab.report.curves import curves, gradient_norms, outcomes
from admin_init.lab.report.groups import MOST_SETTINGS, Group, by_setting, groups, interval
from admin_init.lab.report.learning_rates import rates_figure, sensitivities
from admin_init.lab.report.stable_rates import ramp_cells, ramp_figure, ramp_summary
from admin_init.lab.report.summary import summary
from admin_init.lab.studies.steps import load_studies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

_COURSE = (
    "Training loss, validation NLL and gradient norm{}. Each curve is a seed; a cross marks a loss "
    "spike, more than 0.1 above the rolling median of the last 201 updates"
)
_WORDS = ("style", "layers", "outcome", "trained", "why")
"""Columns of text, aligned to the left."""


def write_report(comparison: Comparison, outcome: Outcome) -> None:
    """Write ``results.jsonl``, ``report.html`` and its figures to the comparison's folder.

    The page is self-contained: it embeds its figures and loads nothing.
    """
    folder = Path(comparison.output)
    lines = (json.dumps(_finite(result.row())) + "\n" for result in outcome.results)
    write_text(folder / "results.jsonl", "".join(lines))
    figures = _figures(comparison, outcome)
    pictures = {name: png(figure) for name, (_, figure) in figures.items()}
    for name, picture in pictures.items():
        write_bytes(folder / f"{name}.png", picture)
    _show_in_tensorboard(folder / "report", {name: figure for name, (_, figure) in figures.items()})
    templates = Environment(loader=PackageLoader("admin_init.lab.report"), autoescape=True)
    page = templates.get_template("report.html.jinja").render(
        comparison=comparison,
        outcome=outcome,
        words=_WORDS,
        styles=_styles(comparison, outcome),
        compared=_compared(comparison, outcome),
        runs=_runs(outcome),
        signatures=sorted({r.bleu_signature for r in outcome.results if r.bleu_signature}),
        summary=sentences(comparison, outcome),
        sensitivities=sensitivities(outcome.results),
        studies=[
            (step, base64.b64encode(step.picture.read_bytes()).decode())
            for step in load_studies(comparison)
        ],
        pictures=[
            (caption, base64.b64encode(pictures[name]).decode())
            for name, (caption, _) in figures.items()
        ],
    )
    write_text(folder / "report.html", page)


def sentences(comparison: Comparison, outcome: Outcome) -> list[str]:
    """Summarize the results in sentences."""
    if comparison.ramp:
        return ramp_summary(comparison, outcome.results)
    return summary(outcome.results)


def _figures(comparison: Comparison, outcome: Outcome) -> dict[str, tuple[str, Figure]]:
    """Draw the figures: a caption and a figure, by the name of the file."""
    results, entropy = outcome.results, outcome.entropy
    settings = len(by_setting(groups(results)))
    first = f" for the first {MOST_SETTINGS} of {settings} settings"
    of = first if settings > MOST_SETTINGS else ""
    drawn: dict[str, tuple[str, Figure | None]] = {}
    if comparison.ramp:
        caption = "Largest stable learning rate of every run"
        drawn["stable_rates"] = caption, ramp_figure(comparison, results)
    else:
        caption = (
            "Final validation NLL over the learning rate. Each mark is a seed (hollow: failed), "
            "each line a mean over seeds; the grey line is the unigram entropy"
        )
        drawn["learning_rates"] = caption, rates_figure(results, entropy)
        if not of:
            drawn["outcomes"] = "Final validation NLL of every run", outcomes(results, entropy)
    drawn["report"] = _COURSE.format(of), curves(results, entropy)
    caption = f"Gradient norm of every sub-layer at the first validation{of}"
    drawn["gradient_norms"] = caption, gradient_norms(results)
    return {name: (text, figure) for name, (text, figure) in drawn.items() if figure is not None}


def _show_in_tensorboard(folder: Path, figures: dict[str, Figure]) -> None:
    # Otherwise the events of a former report would be kept, too.
    remove(folder)
    with SummaryWriter(str(folder)) as writer:
        for name, figure in figures.items():
            writer.add_figure(name.replace("_", " "), figure)


def table(comparison: Comparison, outcome: Outcome) -> Table:
    """Lay out the results for a terminal: a row for each style and setting, over its seeds."""
    view = Table(title=escape(comparison.title), box=box.SIMPLE_HEAD, padding=0)
    rows = _styles(comparison, outcome)
    for title in rows[0][1] if rows else ():
        if title in _WORDS:
            view.add_column(title, overflow="fold")
        else:
            # In a narrow terminal, the range over seeds wraps to a line below the mean, whole.
            words = [word for _, cells in rows for word in cells[title].split()]
            view.add_column(title, justify="right", min_width=max(map(len, words), default=0))
    for group, cells in rows:
        failed = group.failure is not None and not comparison.ramp
        view.add_row(*cells.values(), style="red" if failed else "")
    return view


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    # JSON has neither NaN nor infinity; the `reason` of the run states them.
    lost = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return row | lost


def _compared(comparison: Comparison, outcome: Outcome) -> list[tuple[str, str]]:
    """List the settings in which the runs differ, and those that they share."""
    found = groups(outcome.results)
    rates = sorted({run.variant.learning_rate for run in outcome.results})
    seeds = sorted({run.variant.seed for run in outcome.results})
    common = comparison.transformer | comparison.optimization
    return [
        ("styles", ", ".join(dict.fromkeys(group.style for group in found))),
        ("settings", "; ".join(by_setting(found))),
        ("learning rate", ", ".join(f"{rate:g}" for rate in rates)),
        ("seeds", ", ".join(map(str, seeds))),
        ("all runs", ", ".join(f"{name} {value}" for name, value in common.items())),
    ]


def _styles(comparison: Comparison, outcome: Outcome) -> list[tuple[Group, dict[str, str]]]:
    """Lay out a row for each style and setting."""
    return _without_empty_bleu(
        (group, ramp_cells(comparison, group) if comparison.ramp else _group_cells(group))
        for group in groups(outcome.results)
    )


def _runs(outcome: Outcome) -> list[tuple[Result, dict[str, str]]]:
    """Lay out a row for each run."""
    return _without_empty_bleu(
        (run, _run_cells(group, run)) for group in groups(outcome.results) for run in group.runs
    )


def _without_empty_bleu(rows: Iterable[tuple[T, dict[str, str]]]) -> list[tuple[T, dict[str, str]]]:
    """Leave out the column of BLEU if no run computed it."""
    rows = list(rows)
    if any(cells.get("BLEU") for _, cells in rows):
        return rows
    return [(of, {k: v for k, v in cells.items() if k != "BLEU"}) for of, cells in rows]


def _group_cells(group: Group) -> dict[str, str]:
    runs = group.runs
    return {
        "style": group.style,
        "layers": group.setting.replace(" layers", ""),
        "trained": f"{group.trained} of {len(runs)}",
        "val NLL": interval(group.nlls, 2),
        "source gain": interval([run.source_gain for run in runs], 2),
        "BLEU": interval([run.bleu for run in runs if run.bleu is not None], 1),
        "grad norm": f"{statistics.fmean(run.grad_norm for run in runs):.2f}",
        "seconds": f"{statistics.fmean(run.history.seconds for run in runs):.0f}",
    }


def _run_cells(group: Group, run: Result) -> dict[str, str]:
    return {
        "style": group.style,
        "layers": group.setting.replace(" layers", ""),
        "seed": str(run.variant.seed),
        "outcome": "trained" if run.trained else "failed",
        "val NLL": f"{run.val_nll:.3f}",
        "source gain": f"{run.source_gain:.3f}",
        "BLEU": "" if run.bleu is None else f"{run.bleu:.1f}",
        "grad norm": f"{run.grad_norm:.3g}",
        "spikes": str(len(run.history.spikes)),
        "updates": str(run.updates),
        "seconds": f"{run.history.seconds:.0f}",
    }
