"""Dependency of each sub-layer's output on each branch: the maps of the paper's figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from admin_init._utils.validation import PositiveInt, Seed, check
from admin_init.lab.plotting import subplots_grid
from admin_init.lab.studies.bench import Bench, Kind
from admin_init.lab.studies.findings import Findings, over_seeds
from admin_init.measures import branch_terms, layer_dependency
from admin_init.measures.figures import COLOUR_BAR, heat_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ABREAST = 4
"""Maximum number of legible panels side by side."""


def dependency(
    output: str = "runs/lab/dependency",
    residuals: Sequence[str] = ("post", "pre", "admin"),
    depths: Sequence[PositiveInt] = (6, 18),
    seeds: Sequence[Seed] = (1, 2, 3),
    kind: Kind = "encoder",
    dim: PositiveInt = 32,
    max_tokens: PositiveInt = 1024,
) -> Findings:
    """Map how much each sub-layer's output depends on each branch, at initialization.

    Args:
        output: Output folder.
        residuals: Residual styles.
        depths: Numbers of layers of the stack.
        seeds: Seeds of the weights and the batch; the figure shows the mean over seeds.
        kind: Encoder-only or decoder-only model.
        dim: Number of channels; the FFN has four times as many inner channels.
        max_tokens: Maximum number of tokens in the batch.
    """
    check(dependency, locals())
    bench = Bench(folder=output, dim=dim, ffn_dim=4 * dim, max_tokens=max_tokens)
    maps: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    rows: list[dict[str, Any]] = []
    for residual, depth, seed in product(residuals, depths, seeds):
        stack = bench.stack(residual, depth, seed, kind)
        (terms,) = branch_terms(stack.model.eval(), stack.runner()).values()
        beta = layer_dependency(terms)
        maps.setdefault((residual, depth), []).append(beta)
        rows.append({"style": residual, "layers": depth, "seed": seed, **_measures(beta)})
    summary = []
    for residual, depth in maps:
        own = [r for r in rows if (r["style"], r["layers"]) == (residual, depth)]
        measured = {name: over_seeds(row[name] for row in own) for name in _measures(beta)}
        summary.append({"style": residual, "layers": str(depth), **measured})
    return Findings(
        name=Path(output).name,
        rows=rows,
        summary=summary,
        sentences=[
            f"{row['style']} at {row['layers']} layers: a sub-layer's own branch contributes "
            f"{row['own branch']} of the standard deviation of its output on average, and "
            f"{row['own branch, last']} in the last sub-layer."
            for row in summary
        ],
        figure=_figure(maps, kind),
    )


def _measures(beta: NDArray[np.float64]) -> dict[str, float]:
    own = np.diagonal(beta, offset=1)
    return {
        "own branch": float(own.mean()),
        "own branch, last": float(own[-1]),
        "embedding, last": float(beta[-1, 0]),
    }


def _figure(maps: dict[tuple[str, int], list[NDArray[np.float64]]], kind: Kind) -> Figure:
    depths = list(dict.fromkeys(depth for _, depth in maps))
    residuals = list(dict.fromkeys(residual for residual, _ in maps))
    # A column for each style, or for each depth where there are many styles.
    if len(residuals) <= _ABREAST:
        columns, order = len(residuals), [(r, d) for d, r in product(depths, residuals)]
    else:
        columns, order = max(1, _ABREAST // len(depths)) * len(depths), list(maps)
    figure, axes = subplots_grid(len(maps), columns=columns, height=3.0)
    image: Any = None
    for axis, (residual, depth) in zip(axes, order, strict=True):
        mean = np.mean(maps[residual, depth], axis=0)
        image = heat_map(axis, mean, title=f"{residual}, {depth} layers")
    figure.suptitle(f"share of each branch in the outputs of the {kind}")
    figure.colorbar(image, ax=axes, aspect=10 * len(maps) / columns, **COLOUR_BAR)
    return figure
