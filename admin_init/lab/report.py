"""Show what came of a comparison: a table, a picture, a page."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table

from admin_init.files import write_text
from admin_init.lab.compare import Outcome
from admin_init.lab.comparison import Comparison
from admin_init.lab.run import Result

# Okabe and Ito's palette, which the colour-blind can tell apart; line styles serve a grey print.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_COLUMNS = {
    "residual": "style",
    "depth": "layers",
    "learning_rate": "lr",
    "seed": "seed",
    "outcome": "outcome",
    "val_nll": "val NLL",
    "source_gain": "source gain",
    "bleu": "BLEU",
    "grad_norm": "grad norm",
    "seconds": "seconds",
}
_WORDS = ("residual", "depth", "outcome")


def write_report(comparison: Comparison, outcome: Outcome) -> None:
    """Write ``results.jsonl``, ``report.png`` and ``report.html`` into the comparison's folder.

    The page is self-contained: its picture is part of it, and it loads nothing.
    """
    folder = Path(comparison.output)
    lines = (json.dumps(_finite(result.row())) + "\n" for result in outcome.results)
    write_text(folder / "results.jsonl", "".join(lines))
    picture = _png(figure(comparison, outcome))
    partial = folder / ".report.png"
    partial.write_bytes(picture)
    partial.replace(folder / "report.png")
    templates = Environment(loader=PackageLoader("admin_init.lab"), autoescape=True)
    page = templates.get_template("report.html.jinja").render(
        comparison=comparison,
        outcome=outcome,
        columns=_COLUMNS,
        words=_WORDS,
        rows=[(result, _cells(result)) for result in outcome.results],
        signatures=sorted({r.bleu_signature for r in outcome.results if r.bleu_signature}),
        summary=summary(outcome.results),
        picture=base64.b64encode(picture).decode(),
    )
    write_text(folder / "report.html", page)


def table(comparison: Comparison, outcome: Outcome) -> Table:
    """Lay out the results for a terminal."""
    view = Table(title=escape(comparison.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, title in _COLUMNS.items():
        view.add_column(title, justify="left" if key in _WORDS else "right", overflow="fold")
    for result in outcome.results:
        style = "" if result.trained else "red"
        view.add_row(*_cells(result).values(), style=style)
    return view


def summary(results: list[Result]) -> list[str]:
    """Say in a sentence each, how the styles fared at every depth and learning rate."""
    groups: dict[tuple[str, str, float], list[Result]] = {}
    for result in results:
        key = result.depth, result.residual, result.learning_rate
        groups.setdefault(key, []).append(result)
    sentences = []
    for (depth, residual, rate), runs in groups.items():
        good = [run for run in runs if run.trained]
        nll = _span([run.val_nll for run in runs], 2)
        bleu = _span([run.bleu for run in runs if run.bleu is not None], 1)
        sentence = (
            f"{residual} at {depth} layers, learning rate {rate:g}: trained on {len(good)} of "
            f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'}; validation NLL {nll}"
            f"{f', BLEU {bleu}' if bleu else ''}."
        )
        failed = next((run for run in runs if not run.trained), None)
        sentences.append(sentence + (f" Seed {failed.seed}: {failed.reason}." if failed else ""))
    return sentences


def _span(values: list[float], digits: int) -> str:
    texts = {f"{value:.{digits}f}" for value in values}
    ends = sorted(texts, key=lambda text: (text == "nan", float(text)))
    return " to ".join((ends[0], ends[-1])) if len(ends) > 1 else "".join(ends)


def figure(comparison: Comparison, outcome: Outcome) -> Figure:
    """Draw training loss, validation NLL and gradient norm of all the runs over each other."""
    drawing = Figure(figsize=(15, 4.6), layout="constrained")
    loss, nll, norm = drawing.subplots(1, 3)
    kinds = list(dict.fromkeys((r.residual, r.depth, r.learning_rate) for r in outcome.results))
    several = len({kind[1:] for kind in kinds}) > 1
    for result in outcome.results:
        kind = kinds.index((result.residual, result.depth, result.learning_rate))
        first = next(
            r for r in outcome.results if (r.residual, r.depth, r.learning_rate) == kinds[kind]
        )
        name = f"{result.residual} {result.depth} lr {result.learning_rate:g}"
        look = {
            "color": _COLOURS[kind % len(_COLOURS)],
            "linestyle": _LINES[kind % len(_LINES)],
            "label": (name if several else result.residual) if result is first else None,
        }
        course = result.history
        updates = range(1, len(course["train_loss"]) + 1)
        loss.plot(updates, course["train_loss"], linewidth=1, **look)
        norm.plot(range(1, len(course["grad_norm"]) + 1), course["grad_norm"], linewidth=1, **look)
        steps = [entry["step"] for entry in course["validation"]]
        nll.plot(steps, [entry["nll"] for entry in course["validation"]], marker="o", **look)
    nll.axhline(outcome.entropy, color="grey", linewidth=1)
    nll.annotate(
        "unigram entropy",
        (1, outcome.entropy),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color="grey",
    )
    loss.set(xlabel="update", ylabel="nats per token, label-smoothed", title="training loss")
    nll.set(xlabel="update", ylabel="nats per token", title="validation NLL")
    norm.set(xlabel="update", ylabel="2-norm", title="gradient norm", yscale="log")
    for axis in (loss, nll, norm):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if outcome.results:
        loss.legend(frameon=False)
    return drawing


def _png(drawing: Figure) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, dpi=120)
    return buffer.getvalue()


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    # JSON knows neither NaN nor infinity; the reason of a run that ended in one says so.
    lost = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return row | lost


def _cells(result: Result) -> dict[str, str]:
    values = {
        "residual": result.residual,
        "depth": result.depth,
        "learning_rate": f"{result.learning_rate:g}",
        "seed": str(result.seed),
        "outcome": "trained" if result.trained else "failed",
        "val_nll": f"{result.val_nll:.3f}",
        "source_gain": f"{result.source_gain:.3f}",
        "bleu": "" if result.bleu is None else f"{result.bleu:.1f}",
        "grad_norm": f"{result.grad_norm:.3g}",
        "seconds": f"{result.seconds:.0f}",
    }
    return {key: values[key] for key in _COLUMNS}
