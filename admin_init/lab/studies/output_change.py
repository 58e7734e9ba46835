"""Change of the output when the weights are perturbed, over depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from admin_init._utils.validation import PositiveFloat, PositiveInt, Seed, check
from admin_init.errors import AdminInitError
from admin_init.lab.plotting import COLOURS, style_axis, subplots_grid
from admin_init.lab.studies.bench import Bench, Kind
from admin_init.lab.studies.findings import NOT_APPLICABLE, Findings, over_seeds
from admin_init.measures import depth_fits, growth_exponent
from admin_init.measures import output_change as measure
from admin_init.nn import RESIDUAL_STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (6, 12, 18, 36, 60, 100)

_GROWTHS = ("none", "logarithmic", "linear")

_SPAN = 30
"""Range of a panel above and below the geometric mean of its changes, as a factor."""


def output_change(
    output: str = "runs/lab/output_change",
    residuals: Sequence[str] | None = None,
    depths: Sequence[PositiveInt] = DEPTHS,
    seeds: Sequence[Seed] = (1, 2, 3, 4, 5),
    draws: PositiveInt = 8,
    kind: Kind = "encoder",
    delta: PositiveFloat = 1e-4,
    dim: PositiveInt = 32,
    max_tokens: PositiveInt = 512,
) -> Findings:
    """Measure the squared output change at initialization over depth, for every style.

    Theory (arXiv 2004.08249, section 4) predicts linear growth with depth for Post-LN, and
    logarithmic growth for Admin and Pre-LN.

    Args:
        output: Output folder.
        residuals: Residual styles; all of them by default.
        depths: Numbers of layers of the stack; at least three different values.
        seeds: Seeds of the weights, the batch and the perturbations.
        draws: Number of perturbations of each model; their output changes are averaged.
        kind: Encoder-only or decoder-only model.
        delta: Size of the perturbation of each weight.
        dim: Number of channels; the FFN has four times as many inner channels.
        max_tokens: Maximum number of tokens in the batch.
    """
    check(output_change, locals())
    if len(set(depths)) < 3:
        raise AdminInitError(
            f"`depths` must hold at least three different numbers, but is {depths}."
        )
    bench = Bench(folder=output, dim=dim, ffn_dim=4 * dim, max_tokens=max_tokens)
    styles = list(RESIDUAL_STYLES) if residuals is None else list(residuals)
    rows = []
    for residual, depth, seed in product(styles, sorted(depths), seeds):
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
    depths = sorted({row["layers"] for row in rows})
    first, last = depths[0], depths[-1]
    # Fits and exponents count sub-layers, two per layer.
    sublayers = [2 * depth for depth in depths]
    changes = {seed: [row["change"] for row in rows if row["seed"] == seed] for seed in seeds}
    exponents = [growth_exponent(sublayers, values) for values in changes.values()]
    fits = depth_fits(sublayers, _geometric_means(rows))
    kinds = [_growth(sublayers, exponent) for exponent in exponents]
    kind = max(set(kinds), key=kinds.count)
    return {
        "style": residual,
        f"at {first}": over_seeds((values[0] for values in changes.values()), ".2g"),
        f"growth to {last}": over_seeds(
            (values[-1] / values[0] if values[0] else math.nan for values in changes.values()),
            ".2g",
        ),
        "exponent": NOT_APPLICABLE if kind == "falls" else over_seeds(exponents, ".2f"),
        "R2 linear": f"{fits.linear.r2:.2f}",
        "R2 log": f"{fits.logarithmic.r2:.2f}",
        "growth": f"{kind} ({kinds.count(kind)} of {len(seeds)})",
    }


def _geometric_means(rows: list[dict[str, Any]]) -> list[float]:
    """Return the geometric mean over seeds at each depth, in the order of depths."""
    depths = sorted({row["layers"] for row in rows})
    changes = [[row["change"] for row in rows if row["layers"] == depth] for depth in depths]
    return [statistics.geometric_mean(c) if min(c) > 0 else 0.0 for c in changes]


def _growth(sublayers: list[int], exponent: float) -> str:
    """Name the kind of growth with the nearest exponent."""
    logarithmic = growth_exponent(sublayers, np.log(sublayers).tolist())
    if not exponent > -logarithmic:
        return "falls" if exponent < 0 else "none"
    known = dict(zip(_GROWTHS, (0.0, logarithmic, 1.0), strict=True))
    return min(known, key=lambda name: abs(known[name] - exponent))


def _sentence(row: dict[str, str], first: int, last: int) -> str:
    if row[f"growth to {last}"] == NOT_APPLICABLE:
        return f"{row['style']}: no change at any depth, because branches are 0 at initialization."
    if row["exponent"] == NOT_APPLICABLE:
        return (
            f"{row['style']}: from {first} to {last} layers, the change falls to "
            f"{row[f'growth to {last}']} of its value at {first} layers; growth: {row['growth']}."
        )
    return (
        f"{row['style']}: from {first} to {last} layers, the change grows by a factor of "
        f"{row[f'growth to {last}']}, with an exponent of {row['exponent']}; growth: "
        f"{row['growth']}."
    )


def _figure(styles: list[str], rows: list[dict[str, Any]], kind: Kind) -> Figure:
    figure, axes = subplots_grid(len(styles))
    for axis, residual in zip(axes, styles, strict=True):
        own = _of(rows, residual)
        axis.set(title=residual, xlabel=f"{kind} layers", ylabel="squared change per token")
        style_axis(axis)
        if not all(row["change"] > 0 for row in own):
            axis.text(0.5, 0.5, "no change", ha="center", transform=axis.transAxes)
            axis.set(xticks=[], yticks=[])
            continue
        depths = sorted({row["layers"] for row in own})
        fits = depth_fits([2 * depth for depth in depths], _geometric_means(own))
        curve = np.geomspace(min(depths), max(depths), 200)
        axis.plot(
            [row["layers"] for row in own],
            [row["change"] for row in own],
            "o",
            color="black",
            markersize=3,
            label="a seed",
        )
        for fit, over, line, colour in (
            (fits.linear, 2 * curve, "-", COLOURS[0]),
            (fits.logarithmic, np.log(2 * curve), "--", COLOURS[1]),
        ):
            name = "linear" if fit is fits.linear else "logarithmic"
            label = f"{name}, R² {fit.r2:.2f}"
            drawn = fit.intercept + fit.slope * over
            drawn[drawn <= 0] = np.nan
            axis.plot(curve, drawn, line, color=colour, label=label)
        axis.set(xscale="log", yscale="log")
        # The same number of decades in every panel, so that slopes can be compared.
        centre = statistics.geometric_mean(row["change"] for row in own)
        if all(centre / _SPAN < row["change"] < centre * _SPAN for row in own):
            axis.set_ylim(centre / _SPAN, centre * _SPAN)
        axis.set_xticks(depths, [str(depth) for depth in depths])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize="x-small")
    return figure
