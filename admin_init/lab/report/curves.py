"""Figures of a comparison: the course of its runs, final NLLs, and gradient norms by layer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from admin_init.lab.comparison.result import Result
from admin_init.lab.plotting import MARKERS, line_style, style_axis, subplots_grid
from admin_init.lab.report.groups import MOST_SETTINGS, Group, by_setting, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGIBLE = 6
"""Maximum number of styles whose curves can be told apart in one panel."""

_WINDOW = 11
"""Number of updates of the running median that smooths the curves if there are several."""


def curves(results: Sequence[Result], entropy: float) -> Figure:
    """Draw training loss, validation NLL and gradient norm of all runs.

    There is a row of panels for each of the first six settings and for every six styles, and a
    curve for each seed; crosses mark loss spikes. If a panel shows several runs, loss and gradient
    norm are running medians over 11 updates.

    Args:
        results: The runs.
        entropy: Unigram entropy of the target side, in nats per token.
    """
    rows = list(_legible(by_setting(groups(results))))
    figure, axes = subplots_grid(3 * max(1, len(rows)), columns=3, width=4.8, height=3.6)
    for row, (setting, found) in enumerate(rows):
        loss, nll, norm = axes[3 * row : 3 * row + 3]
        window = 1 if sum(len(group.runs) for group in found) == 1 else _WINDOW
        for number, group in enumerate(found):
            for run in group.runs:
                _draw(run, (loss, nll, norm), _label(group, run), number, window)
        nll.axhline(entropy, color="grey", linewidth=1)
        nll.annotate(
            "unigram entropy",
            (1, entropy),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color="grey",
        )
        loss.set(ylabel="nats per token, label-smoothed", title=f"training loss, {setting}")
        nll.set(ylabel="nats per token", title=f"validation NLL, {setting}")
        norm.set(ylabel="2-norm", title=f"gradient norm, {setting}", yscale="log")
        for axis in (loss, nll, norm):
            axis.set_xlabel("update")
            style_axis(axis)
        norm.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.03))
    return figure


def outcomes(results: Sequence[Result], entropy: float) -> Figure:
    """Draw the final validation NLL of every run, a row for each style, the best style on top.

    Args:
        results: The runs.
        entropy: Unigram entropy of the target side, in nats per token.
    """
    settings = list(by_setting(groups(results)).items())[:MOST_SETTINGS]
    most = max((len(found) for _, found in settings), default=1)
    figure, axes = subplots_grid(
        max(1, len(settings)), columns=2, width=6.4, height=1.2 + 0.26 * most
    )
    for axis, (setting, found) in zip(axes, settings, strict=False):
        ranked = sorted(found, key=_rank, reverse=True)
        for row, group in enumerate(ranked):
            for run in group.runs:
                # Hollow if the run failed, whatever its NLL.
                face = "black" if run.trained else "none"
                axis.plot(run.val_nll, row, "o", color="black", markerfacecolor=face)
        axis.axvline(entropy, color="grey", linewidth=1)
        axis.set_yticks(range(len(ranked)), [group.style for group in ranked])
        axis.set(
            xlabel="final validation NLL, nats per token (line: unigram entropy)",
            title=f"{setting}: filled trained, hollow failed",
            ylim=(-0.7, len(ranked) - 0.3),
        )
        style_axis(axis)
    return figure


def gradient_norms(results: Sequence[Result]) -> Figure | None:
    """Draw the gradient norm of every sub-layer at the first validation, mean over seeds.

    Returns:
        The figure; None if no run recorded gradient norms.
    """
    # Imported here, as all of matplotlib: it is slow to load.
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    recorded = [group for group in groups(results) if _norms(group)]
    shown = [
        (setting, stack, found)
        for setting, found in _legible(by_setting(recorded))
        for stack in ("encoder", "decoder")
        if any(_of_stack(group, stack).size for group in found)
    ]
    if not shown:
        return None
    figure, axes = subplots_grid(len(shown), columns=2, width=6.4, height=3.6)
    for axis, (setting, stack, found) in zip(axes, shown, strict=True):
        for number, group in enumerate(found):
            norms = _of_stack(group, stack)
            if norms.size:
                axis.plot(range(1, len(norms) + 1), norms, label=group.style, **line_style(number))
        axis.set(
            xlabel=f"sub-layer of the {stack}, from its input",
            ylabel="2-norm of its gradients",
            title=setting,
            yscale="log",
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        style_axis(axis)
        axis.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.03))
    return figure


def _legible(settings: dict[str, list[Group]]) -> Iterator[tuple[str, list[Group]]]:
    """Yield the first settings, each with at most six styles at a time."""
    for setting, found in list(settings.items())[:MOST_SETTINGS]:
        for start in range(0, len(found), _LEGIBLE):
            yield setting, found[start : start + _LEGIBLE]


def _rank(group: Group) -> float:
    mean = sum(group.nlls) / len(group.nlls)
    return mean if math.isfinite(mean) else math.inf


def _label(group: Group, run: Result) -> str | None:
    return group.style if run is group.runs[0] else None


def _draw(
    run: Result,
    axes: tuple[Axes, Axes, Axes],
    label: str | None,
    number: int,
    window: int,
) -> None:
    loss, nll, norm = axes
    style = line_style(number)
    course = run.history
    losses = course.train_loss
    loss.plot(*_smoothed(losses, window), linewidth=1, **style)
    spikes = [step for step in course.spikes if math.isfinite(losses[step - 1])]
    loss.plot(spikes, [losses[step - 1] for step in spikes], "x", color=style["color"])
    norm.plot(*_smoothed(course.grad_norm, window), linewidth=1, label=label, **style)
    steps = [validation.step for validation in course.validation]
    nlls = [validation.nll for validation in course.validation]
    nll.plot(steps, nlls, marker=MARKERS[number % len(MARKERS)], markersize=4, **style)


def _smoothed(values: list[float], window: int) -> tuple[Any, Any]:
    """Return updates and values, each value the median of the last ``window`` ones."""
    last = range(min(window, len(values)), len(values) + 1)
    return list(last), [statistics.median(values[end - window : end]) for end in last]


def _norms(group: Group) -> list[dict[str, float]]:
    recorded = [run.history.layer_grad_norm for run in group.runs]
    return [entries[0].norms for entries in recorded if entries]


def _of_stack(group: Group, stack: str) -> Any:
    seeds = [
        [norm for name, norm in norms.items() if f"{stack}.layers." in name]
        for norms in _norms(group)
    ]
    return np.mean(seeds, axis=0) if seeds else np.array([])
