"""Results of the styles over learning rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from admin_init.lab.comparison.result import Result
from admin_init.lab.plotting import MARKERS, line_style, style_axis, subplots_grid
from admin_init.lab.report.groups import Group, groups, interval, over_rates
from admin_init.measures import lr_sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST_RATES = 3
"""Minimum number of learning rates for a figure over them."""


def sensitivities(results: Sequence[Result]) -> list[str]:
    """Report each style's sensitivity to the learning rate, if several rates were tried.

    See :func:`admin_init.measures.lr_sensitivity`; runs without an initial NLL are left out.
    """
    sentences = []
    for setting, styles in over_rates(groups(results)).items():
        for style, found in styles.items():
            losses: dict[int, dict[float, float]] = {}
            initial: dict[int, float] = {}
            for run in (run for group in found for run in group.runs):
                if run.history.initial_nll is not None and math.isfinite(run.history.initial_nll):
                    losses.setdefault(run.variant.seed, {})[run.variant.learning_rate] = run.val_nll
                    initial[run.variant.seed] = run.history.initial_nll
            rates = {rate for of_seed in losses.values() for rate in of_seed}
            if len(rates) > 1 and all(set(of_seed) == rates for of_seed in losses.values()):
                values = [lr_sensitivity(losses[seed], initial[seed]) for seed in losses]
                sentences.append(
                    f"{style} at {setting}: learning-rate sensitivity {interval(values, 3)} nats "
                    f"over {len(rates)} rates from {min(rates):g} to {max(rates):g}."
                )
    return sentences


def rates_figure(results: Sequence[Result], entropy: float) -> Figure | None:
    """Draw the final validation NLL over the learning rate, a panel for each other setting.

    Each style has a line for the mean of its seeds and a mark for each seed, hollow if it failed.
    Values that are not finite or above 1.5 times the entropy are drawn at the upper edge.

    Args:
        results: The runs.
        entropy: Unigram entropy of the target side, in nats per token.

    Returns:
        The figure; None if fewer than three learning rates were tried.
    """
    settings = {
        setting: styles
        for setting, styles in over_rates(groups(results)).items()
        if len(_rates(styles)) >= _FEWEST_RATES
    }
    if not settings:
        return None
    edge = 1.5 * entropy
    figure, axes = subplots_grid(len(settings), columns=3, width=4.8, height=3.8)
    for axis, (setting, styles) in zip(axes, settings.items(), strict=True):
        for number, (style, found) in enumerate(styles.items()):
            ranked = sorted(found, key=_rate)
            means = [statistics.fmean(_up_to(edge, run) for run in g.runs) for g in ranked]
            axis.plot([_rate(group) for group in ranked], means, label=style, **line_style(number))
            for run in (run for group in ranked for run in group.runs):
                axis.plot(
                    run.variant.learning_rate,
                    _up_to(edge, run),
                    MARKERS[number % len(MARKERS)],
                    color=line_style(number)["color"],
                    fillstyle="full" if run.trained else "none",
                    markersize=4,
                )
        axis.axhline(entropy, color="grey", linewidth=1)
        axis.set(
            xscale="log",
            xlabel="learning rate",
            ylabel="final validation NLL, nats per token",
            title=setting,
            ylim=(0, 1.04 * edge),
        )
        rates = _rates(styles)
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.minorticks_off()
        style_axis(axis)
    axes[-1].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.03))
    return figure


def _rates(styles: dict[str, list[Group]]) -> list[float]:
    return sorted({_rate(group) for found in styles.values() for group in found})


def _rate(group: Group) -> float:
    return group.runs[0].variant.learning_rate


def _up_to(edge: float, run: Result) -> float:
    return min(run.val_nll, edge) if math.isfinite(run.val_nll) else edge
