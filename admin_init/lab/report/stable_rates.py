"""The largest stable learning rate, from runs whose learning rate grows at every update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.result import Result
from admin_init.lab.plotting import MARKERS, line_style, style_axis, subplots_grid
from admin_init.lab.report.groups import Group, by_setting, groups, interval
from admin_init.measures import LargestStableRate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def judge_ramp(comparison: Comparison, run: Result) -> LargestStableRate:
    """Judge the training losses of a ramp, see :class:`LargestStableRate`."""
    steps = comparison.max_steps or run.updates
    judge = LargestStableRate()
    for step, loss in enumerate(run.history.train_loss):
        judge.update(run.variant.learning_rate * step / steps, loss)
    return judge


def ramp_cells(comparison: Comparison, group: Group) -> dict[str, str]:
    """Lay out the largest stable learning rates of a style's seeds, for a table."""
    judged = [judge_ramp(comparison, run) for run in group.runs]
    diverged = [judge for judge in judged if judge.diverged_at is not None]
    reasons = [
        f"seed {run.variant.seed}: {judge.reason or 'no divergence'}"
        for run, judge in zip(group.runs, judged, strict=True)
    ]
    return {
        "style": group.style,
        "layers": group.setting.replace(" layers", ""),
        "largest stable lr": interval([judge.rate for judge in judged], 4),
        "diverged": f"{len(diverged)} of {len(judged)}",
        "why": "; ".join(reasons),
    }


def ramp_summary(comparison: Comparison, results: Sequence[Result]) -> list[str]:
    """Report the largest stable learning rate of each style, the highest first."""
    sentences = []
    for setting, found in by_setting(groups(results)).items():
        rates = {
            group.style: [judge_ramp(comparison, run).rate for run in group.runs] for group in found
        }
        ranked = sorted(rates, key=lambda style: -sum(rates[style]) / len(rates[style]))
        listed = ", ".join(f"{style} {interval(rates[style], 4)}" for style in ranked)
        sentences.append(
            f"Largest stable learning rate at {setting}, on a ramp to "
            f"{found[0].runs[0].variant.learning_rate:g} in {comparison.max_steps} updates: "
            f"{listed}."
        )
    return sentences


def ramp_figure(comparison: Comparison, results: Sequence[Result]) -> Figure:
    """Draw the largest stable learning rate of every run, with the styles side by side."""
    settings = by_setting(groups(results))
    figure, axes = subplots_grid(len(settings), columns=2, width=5.6, height=3.4)
    for axis, (setting, found) in zip(axes, settings.items(), strict=True):
        for number, group in enumerate(found):
            for run in group.runs:
                judge = judge_ramp(comparison, run)
                axis.plot(
                    number,
                    judge.rate,
                    marker=MARKERS[number % len(MARKERS)],
                    color=line_style(number)["color"],
                    # Hollow: the largest stable rate may lie above the end of the ramp.
                    fillstyle="none" if judge.diverged_at is None else "full",
                )
        axis.set_xticks(range(len(found)), [group.style for group in found], rotation=30)
        axis.set(
            ylabel="largest stable learning rate",
            title=f"{setting} (hollow: did not diverge)",
            ylim=(0, None),
        )
        style_axis(axis)
    return figure
