"""How a perturbation of the weights moves the output, against depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from admin_init.lab.pictures import COLOURS, panels, tidy
from admin_init.lab.studies.bench import Bench, Kind
from admin_init.lab.studies.findings import Findings, over_seeds
from admin_init.measures import depth_fits
from admin_init.measures import output_change as measure
from admin_init.nn import RESIDUAL_STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (6, 12, 18, 36, 60, 100)

_EXPLAINS = 0.5
"""The R2 that a fit must have to be called one."""


def output_change(
    output: str = "runs/lab/output_change",
    residuals: Sequence[str] | None = None,
    depths: Sequence[int] = DEPTHS,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    draws: int = 8,
    kind: Kind = "encoder",
    delta: float = 1e-4,
    dim: int = 32,
    max_tokens: int = 512,
) -> Findings:
    """Measure the squared output change at initialization over depth, for every style.

    The theory (arXiv 2004.08249, section 4): linear in depth for Post-LN, logarithmic for Admin
    and Pre-LN.

    Args:
        output: Folder that is written.
        residuals: Residual styles; all of them by default.
        depths: Numbers of layers of the stack.
        seeds: Seeds of the weights, the batch and the perturbations.
        draws: Perturbations of each model, whose changes are averaged.
        kind: An encoder, or a decoder alone.
        delta: Size of the change of each weight.
        dim: Channels of the residual stream; the FFN has four times as many.
        max_tokens: Size of the batch.
    """
    bench = Bench(folder=output, dim=dim, ffn_dim=4 * dim, max_tokens=max_tokens)
    styles = list(RESIDUAL_STYLES) if residuals is None else list(residuals)
    rows = []
    for residual, depth, seed in product(styles, depths, seeds):
        stack = bench.stack(residual, depth, seed, kind)
        run = stack.runner()
        changes = [
            measure(stack.model, run, delta=delta, seed=seed * draws + draw, mask=~stack.padding)
            for draw in range(draws)
        ]
        change = statistics.fmean(changes)
        rows.append({"style": residual, "layers": depth, "seed": seed, "change": change})
    summary = [_summarised(residual, _of(rows, residual)) for residual in styles]
    return Findings(
        name=Path(output).name,
        rows=rows,
        summary=summary,
        sentences=[_sentence(row, min(depths), max(depths)) for row in summary],
        figure=_figure(styles, rows, kind),
    )


def _of(rows: list[dict[str, Any]], residual: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["style"] == residual]


def _summarised(residual: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    seeds = sorted({row["seed"] for row in rows})
    first, last = min(row["layers"] for row in rows), max(row["layers"] for row in rows)
    growth, linear, logarithmic = [], [], []
    better: list[str] = []
    for seed in seeds:
        own = {row["layers"]: row["change"] for row in rows if row["seed"] == seed}
        # Two sub-layers a layer; the fits count sub-layers.
        fits = depth_fits([2 * layers for layers in own], list(own.values()))
        growth.append(own[last] / own[first] if own[first] else math.nan)
        linear.append(fits.linear.r2)
        logarithmic.append(fits.logarithmic.r2)
        fit = max(fits.linear.r2, fits.logarithmic.r2)
        better.append(fits.better if fit >= _EXPLAINS else "neither")
    named = max(set(better), key=better.count)
    return {
        "style": residual,
        f"at {first}": over_seeds((r["change"] for r in rows if r["layers"] == first), 2),
        f"growth to {last}": over_seeds(growth, 2),
        "R2 linear": over_seeds(linear, 2),
        "R2 log": over_seeds(logarithmic, 2),
        "better fit": f"{named} ({better.count(named)} of {len(seeds)})",
    }


def _sentence(row: dict[str, str], first: int, last: int) -> str:
    if row[f"growth to {last}"].startswith("nan"):
        return f"{row['style']}: no change at any depth, its branches are 0 at initialization."
    return (
        f"{row['style']}: from {first} to {last} layers the change grows "
        f"{row[f'growth to {last}']} times; better fit: {row['better fit']}."
    )


def _figure(styles: list[str], rows: list[dict[str, Any]], kind: Kind) -> Figure:
    figure, axes = panels(len(styles))
    for axis, residual in zip(axes, styles, strict=True):
        own = _of(rows, residual)
        depths = [row["layers"] for row in own]
        changes = [row["change"] for row in own]
        fits = depth_fits([2 * depth for depth in depths], changes)
        curve = np.linspace(min(depths), max(depths), 200)
        axis.plot(depths, changes, "o", color="black", markersize=3, label="a seed")
        for fit, over, line, colour in (
            (fits.linear, 2 * curve, "-", COLOURS[0]),
            (fits.logarithmic, np.log(2 * curve), "--", COLOURS[1]),
        ):
            name = "linear" if fit is fits.linear else "logarithmic"
            label = f"{name}, R² {fit.r2:.2f}"
            axis.plot(curve, fit.intercept + fit.slope * over, line, color=colour, label=label)
        axis.set(title=residual, xlabel=f"{kind} layers", ylabel="squared change per token")
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize="x-small")
        tidy(axis)
    built: Figure = figure
    return built
