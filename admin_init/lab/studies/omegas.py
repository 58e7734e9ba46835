"""Profiled omegas of each sub-layer, compared with the closed forms and DeepNorm's alpha."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from admin_init._utils.validation import PositiveInt, Seed, check
from admin_init.lab.plotting import line_style, style_axis, subplots_grid
from admin_init.lab.studies.bench import Bench, Kind, profile_translator
from admin_init.lab.studies.findings import Findings, over_seeds
from admin_init.nn.residual import DeepNormStyle, StackShape
from admin_init.omega import closed_form

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def omegas(
    output: str = "runs/lab/omegas",
    depths: Sequence[PositiveInt] = (6, 18, 60),
    seeds: Sequence[Seed] = (1, 2, 3),
    dim: PositiveInt = 32,
    max_tokens: PositiveInt = 1024,
) -> Findings:
    """Compare profiled omegas with the closed forms and with DeepNorm's alpha, over depth.

    Args:
        output: Output folder.
        depths: Numbers N of layers; each model has N encoder and N decoder layers.
        seeds: Seeds of the weights and the batch.
        dim: Number of channels; the FFN has four times as many inner channels.
        max_tokens: Maximum number of tokens on each side of the batch.
    """
    check(omegas, locals())
    bench = Bench(folder=output, dim=dim, ffn_dim=4 * dim, max_tokens=max_tokens)
    rows = [
        {
            "stack": site.stack,
            "layers": depth,
            "seed": seed,
            "site": site.name,
            "omega": site.omega,
        }
        for depth, seed in product(depths, seeds)
        for site in profile_translator(
            bench.translator(seed, depth), [next(bench.batches(seed))]
        ).sites
    ]
    summary = []
    for depth, stack in product(depths, ("encoder", "decoder")):
        curves = _curves(rows, stack, depth)
        constants = _constants(stack, depth, dim)
        summary.append(
            {
                "stack": f"{stack} of {depth}-{depth}",
                "omega, 2nd": over_seeds(curves[:, 1]),
                "middle": over_seeds(curves[:, curves.shape[1] // 2]),
                "last": over_seeds(curves[:, -1]),
                **{name: f"{value:.3g}" for name, value in constants.items()},
            }
        )
    return Findings(
        name=Path(output).name,
        rows=rows,
        summary=summary,
        sentences=[
            f"{row['stack']}: the profiled omega rises with depth from {row['omega, 2nd']} to "
            f"{row['last']}. The closed form gives {row['O(log n)']} in every sub-layer; "
            f"DeepNorm's alpha is {row['DeepNorm alpha']}."
            for row in summary
        ],
        figure=_figure(rows, depths, dim),
    )


def _curves(rows: list[dict[str, Any]], stack: str, depth: int) -> Any:
    """Collect the omegas of a stack, shape (seeds, sub-layers)."""
    own = [row for row in rows if (row["stack"], row["layers"]) == (stack, depth)]
    seeds = dict.fromkeys(row["seed"] for row in own)
    return np.array([[row["omega"] for row in own if row["seed"] == seed] for seed in seeds])


def _constants(stack: Any, depth: int, dim: int) -> dict[str, float]:
    shape = StackShape(kind=stack, dim=dim, encoder_layers=depth, decoder_layers=depth)
    return {
        "O(log n)": closed_form(shape.sublayers, "log"),
        "O(1)": closed_form(shape.sublayers, "constant"),
        "DeepNorm alpha": DeepNormStyle(shape).alpha,
    }


def _figure(rows: list[dict[str, Any]], depths: Sequence[int], dim: int) -> Figure:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure, axes = subplots_grid(2 * len(depths), columns=2, width=5.0, height=2.8)
    kinds: tuple[Kind, Kind] = ("encoder", "decoder")
    for axis, (depth, stack) in zip(axes, product(depths, kinds), strict=True):
        curves = _curves(rows, stack, depth)
        index = np.arange(1, curves.shape[1] + 1)
        axis.fill_between(index, curves.min(0), curves.max(0), color="0.8", label="all seeds")
        axis.plot(
            index, curves.mean(0), **line_style(2) | {"linestyle": "-"}, label="profiled, mean"
        )
        for number, (name, value) in enumerate(_constants(stack, depth, dim).items()):
            colour = (line_style(0), line_style(1), line_style(6))[number]["color"]
            style = ("--", ":", "-.")[number]
            axis.axhline(value, color=colour, linestyle=style, label=name)
        axis.set(
            title=f"{stack} of {depth}-{depth}", xlabel="sub-layer", ylabel="scale of the shortcut"
        )
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        style_axis(axis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
