"""Tables and the figure of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from admin_init.lab.diagnosis.diagnosis import Diagnosis, Sublayer
from admin_init.lab.diagnosis.measured import GRADIENT_STEP, SUBLAYER_DELTA
from admin_init.lab.diagnosis.ramp import Ramp
from admin_init.lab.plotting import MARKERS, line_style, style_axis
from admin_init.measures import branch_share
from admin_init.measures.figures import draw_dependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {"self_attn": "self-attn", "cross_attn": "cross-attn"}


def sublayer_table(diagnosis: Diagnosis) -> Table:
    """Lay out the measurements of each sub-layer, for a terminal of 80 columns."""
    view = Table(box=box.SIMPLE_HEAD, padding=0)
    view.add_column("sub-layer", no_wrap=True)
    for column in (
        "branch\nshare",
        "output\nchange",
        "gradient,\noutput",
        "gradient,\nweights",
        "largest\nlogit",
        "entropy\n(nats)",
    ):
        view.add_column(column, justify="right")
    for stack, found in diagnosis.stacks.items():
        for sublayer in found:
            view.add_row(
                f"{stack} {_number(sublayer)} {_kind(sublayer)}",
                f"{branch_share(sublayer.term):.3f}",
                f"{sublayer.output_change:.3g}",
                f"{sublayer.output_gradient_norm:.3g}",
                f"{sublayer.parameter_gradient_norm:.3g}",
                _or_empty(sublayer.largest_attention_logit),
                _or_empty(sublayer.attention_entropy),
            )
        view.add_section()
    return view


def model_table(diagnosis: Diagnosis, ramp: Ramp | None = None) -> Table:
    """Lay out the measurements of the whole model, for a terminal of 80 columns."""
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("whole model")
    view.add_column("value", justify="right")
    view.add_column("unit")
    view.add_row("NLL, without smoothing", f"{diagnosis.nll:.4f}", "nats per token")
    view.add_row("output log Z", f"{diagnosis.output_log_z:.3f}", "nats")
    view.add_row("gradient norm, all parameters", f"{diagnosis.gradient_norm():.3g}", "")
    for tensor, changes in diagnosis.output_change.items():
        for delta, value in changes.items():
            view.add_row(f"change of the {tensor}, delta {delta}", f"{value:.3g}", _SQUARED)
    view.add_row(
        f"change of the decoder output, gradient step {GRADIENT_STEP:g}",
        f"{diagnosis.gradient_step_change:.3g}",
        _SQUARED,
    )
    if ramp is not None:
        view.add_row("largest stable learning rate", f"{ramp.rate:.3g}", "")
    return view


_SQUARED = "squared norm"


def ramp_sentence(ramp: Ramp) -> str:
    """Report in a sentence how the ramp ended."""
    if ramp.diverged_at is None:
        return (
            f"Training did not diverge on the ramp to a learning rate of {ramp.rates[-1]:g} in "
            f"{len(ramp.rates)} steps: the largest stable learning rate may be higher."
        )
    return (
        f"Training diverged at step {ramp.diverged_at + 1} of the ramp, after a learning rate of "
        f"{ramp.rate:.3g}: {ramp.reason}."
    )


def diagnosis_figure(diagnosis: Diagnosis, ramp: Ramp | None = None) -> Figure:
    """Draw the layer dependency of each stack, and each measure over the sub-layers."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    shares = diagnosis.dependency()
    figure = draw_dependency(shares)
    maps = figure.axes[: len(shares)]
    rows = 4 if ramp is not None else 3
    grid = figure.add_gridspec(rows, 2)
    for number, axis in enumerate(maps):
        axis.set_subplotspec(grid[0, number] if len(maps) > 1 else grid[0, :])
    figure.set_size_inches(11, 3.8 * rows)
    # The colour bars moved with their maps, and would reach a little beyond the edge.
    figure.set_layout_engine("constrained", rect=(0, 0, 0.985, 1))
    figure.suptitle(f"{diagnosis.residual}, {diagnosis.layers} layers, without dropout")
    panels = [figure.add_subplot(grid[1 + number // 2, number % 2]) for number in range(4)]
    gradients, changes, logits, entropies = panels
    _curves(gradients, diagnosis, lambda s: s.output_gradient_norm)
    _logarithmic(gradients, "gradient norm at the output (nats)")
    _curves(changes, diagnosis, lambda s: s.output_change)
    _logarithmic(changes, f"squared output change at delta {SUBLAYER_DELTA:g}")
    _curves(logits, diagnosis, lambda s: s.largest_attention_logit)
    logits.set_ylabel("largest attention logit")
    _curves(entropies, diagnosis, lambda s: s.attention_entropy)
    entropies.set_ylabel("attention entropy (nats)")
    entropies.set_ylim(0, None)
    for axis in panels:
        axis.set_xlabel("sub-layer of its stack, from 1 at the input")
        axis.legend(fontsize="small", loc="lower right" if axis is entropies else "best")
        style_axis(axis)
    for axis in (*maps, *panels):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ramp is not None:
        _draw_ramp(figure.add_subplot(grid[3, :]), ramp)
    return figure


def _curves(axis: Axes, diagnosis: Diagnosis, value: Callable[[Sublayer], float | None]) -> None:
    """Draw a curve for each stack, or for each kind of attention if only attentions have values."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for stack, found in diagnosis.stacks.items():
        everywhere = all(value(sublayer) is not None for sublayer in found)
        for number, sublayer in enumerate(found, 1):
            measured = value(sublayer)
            if measured is not None:
                name = stack if everywhere else f"{stack} {_kind(sublayer)}"
                numbers, values = curves.setdefault(name, ([], []))
                numbers.append(number)
                values.append(measured)
    for index, (name, (numbers, values)) in enumerate(curves.items()):
        style: dict[str, Any] = {**line_style(index), "marker": MARKERS[index], "markersize": 4}
        axis.plot(numbers, values, label=name, **style)


def _logarithmic(axis: Axes, label: str) -> None:
    values: list[Sequence[float]] = [line.get_ydata() for line in axis.lines]  # type: ignore[misc]
    if all(value > 0 for curve in values for value in curve):
        axis.set_yscale("log")
    axis.set_ylabel(label)


def _draw_ramp(axis: Axes, ramp: Ramp) -> None:
    axis.plot(ramp.rates, ramp.losses, color=line_style(1)["color"], label="training loss")
    axis.axvline(
        ramp.rate, **line_style(0) | {"linestyle": "--"}, label="largest stable learning rate"
    )
    axis.set(xlabel="learning rate, linear in the step", ylabel="smoothed loss (nats per token)")
    axis.legend(fontsize="small")
    style_axis(axis)


def _number(sublayer: Sublayer) -> int:
    """Return the number of the layer, from 1."""
    return 1 + next(int(part) for part in sublayer.name.split(".") if part.isdigit())


def _kind(sublayer: Sublayer) -> str:
    kind = sublayer.name.rpartition(".")[2]
    return _KINDS.get(kind, kind)


def _or_empty(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
