"""Where a Pre-LN stream starts: the module whose output or argument omega multiplies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from torch import nn

from admin_init.adapters.computation.branch_ends import lives, weights_of
from admin_init.adapters.computation.graph import Call, ForwardGraph, Value, descends
from admin_init.adapters.computation.paths import axis_back, path_back, readers
from admin_init.adapters.computation.residuals import roots
from admin_init.adapters.computation.sites import ModuleNames, is_excluded, name_stacks
from admin_init.adapters.computation.streams import Stream, StreamSums, find_streams
from admin_init.adapters.stream_form import StreamSite
from admin_init.errors import FoldError, UnsupportedModelError
from admin_init.sites import BranchPlace, ResidualSite, layer_stack


@dataclass(frozen=True, eq=False)
class StreamStart:
    """The output or the argument of a call that is x_0, up to dropout, factors, casts and views."""

    call: Call
    form: Literal["output", "input"]
    leaf: int
    value: Value
    axis: int
    """The axis of the channels in the value, counted from the last (-1)."""


def stream_sites(
    model: nn.Module,
    graph: ForwardGraph,
    exclude: Sequence[str] = (),
    known: Sequence[ResidualSite] = (),
) -> list[StreamSite]:
    """Return one site per Pre-LN stream in the graph of a forward pass, in their order.

    Each site is named after the module whose output or argument is x_0. No site links to another.

    Args:
        model: The model that ran.
        graph: The graph of its pass.
        exclude: Patterns of names to leave out, see :func:`~.sites.is_excluded`. A stream at which
            no site can be is named after its first norm.
        known: Sites to return where they are those of a stream.

    Raises:
        UnsupportedModelError: There is a stream whose input cannot be scaled.
    """
    names = ModuleNames(model, graph, {})
    found: list[tuple[Stream, StreamStart]] = []
    problems: dict[str, str] = {}
    for stream in find_streams(graph):
        try:
            found.append((stream, stream_start(stream, graph)))
        except UnsupportedModelError as error:
            problems[names.of(stream.residuals[0])] = str(error)
    sites = [_site(model, names, stream, start) for stream, start in found]
    sites = [site for site in sites if not is_excluded(site.name, exclude)]
    modules = Counter(site.module for site in sites)
    shared = {site.name for site in sites if modules[site.module] > 1}
    problems |= dict.fromkeys(shared, "it would scale the inputs of several streams")
    problems = {name: why for name, why in problems.items() if not is_excluded(name, exclude)}
    if problems:
        reasons = "; ".join(f"`{name}`: {reason}" for name, reason in problems.items())
        raise UnsupportedModelError(
            f"The input of a Pre-LN stream of {type(model).__name__} cannot be scaled: {reasons}. "
            "Compute it in a module of its own that returns it, or leave the stream out with "
            "`exclude=`."
        )
    name_stacks(sites)
    there = {site.module: site for site in known if isinstance(site, StreamSite)}
    return [there.get(site.module, site) for site in sites]


def stream_start(stream: Stream, graph: ForwardGraph) -> StreamStart:
    """Return where the input of a stream can be scaled.

    This is the last module that returns it before the stream reads it, if nothing else reads that
    output, or else the innermost module that has it as an argument and contains all that reads it.

    Raises:
        UnsupportedModelError: There is neither, or the module runs several times.
    """
    problems: list[str] = []
    ways: list[tuple[Literal["output", "input"], Any]] = [
        ("output", _returning),
        ("input", _receiving),
    ]
    for form, calls in ways:
        for call, leaf, value in calls(stream, graph):
            path = path_back(stream.residuals[0].norm.input, value, factors=True)
            axis = None if path is None else axis_back(path, stream.residuals[0].norm.axis)
            runs = graph.runs[call.module]
            if runs > 1:
                what = "output" if form == "output" else "argument"
                kind = type(call.module).__name__
                problems.append(f"its input is an {what} of a {kind} that runs {runs} times")
            elif axis is None:
                problems.append("its input has the channels along no single axis")
            else:
                return StreamStart(call, form, leaf, value, axis)
    problems.append(
        "no module returns its input to it alone, and none in the model that has the input as an "
        "argument contains all that reads it"
    )
    raise UnsupportedModelError(problems[0])


def _returning(stream: Stream, graph: ForwardGraph) -> Iterator[tuple[Call, int, Value]]:
    """Yield the calls that return x_0 to nothing but its stream, last ones first."""
    reading = [reader for reader in readers(stream.start) if lives(reader)]
    if not all(_feeds(reader, stream) for reader in reading):
        return
    first = min(reader.index for reader in reading)
    after: Value | None = None
    for value in roots(stream.start):
        if after is not None and any(lives(r) for r in value.readers if r is not after):
            return
        for output in reversed(value.outputs):
            if output.call.stop <= first:
                yield output.call, output.leaf, value
        after, first = value, value.index


def _receiving(stream: Stream, graph: ForwardGraph) -> Iterator[tuple[Call, int, Value]]:
    """Yield the calls with x_0 as an argument and all that reads it inside, last ones first."""
    reading = [r for r in readers(stream.start) if lives(r) and _feeds(r, stream)]
    for call in reversed(graph.calls):
        inside = all(call.start <= reader.index < call.stop for reader in reading)
        if not inside or call.module is graph.model:
            continue
        for leaf, value in enumerate(call.arguments):
            if value is None or path_back(stream.start, value, factors=True) is None:
                continue
            there = (r for r in readers(value) if call.start <= r.index < call.stop and lives(r))
            if all(_feeds(reader, stream) for reader in there):
                yield call, leaf, value


def running_streams(graph: ForwardGraph, sites: Sequence[StreamSite]) -> StreamSums[StreamSite]:
    """Return the sums of a running pass by the sites of their streams, which must be installed.

    Args:
        graph: The graph of the pass, in which the starts of the streams are found as they come.
        sites: The sites of the streams.
    """
    of = {(site.module, site.place.start, site.place.leaf): site for site in sites}
    arguments: dict[Value, StreamSite] = {}
    calls = 0

    def begins(value: Value) -> StreamSite | None:
        nonlocal calls
        for call in graph.calls[calls:]:
            for leaf, argument in enumerate(call.arguments):
                site = of.get((call.module, "input", leaf))
                if site is not None and argument is not None:
                    arguments[argument] = site
        calls = len(graph.calls)
        keys = ((output.call.module, "output", output.leaf) for output in value.outputs)
        return arguments.get(value) or next((of[key] for key in keys if key in of), None)

    return StreamSums(begins)


def _site(model: nn.Module, names: ModuleNames, stream: Stream, start: StreamStart) -> StreamSite:
    problem, weights = None, {}
    try:
        if not all(_feeds(r, stream) for r in readers(start.value) if lives(r)):
            raise FoldError("its input is also read elsewhere")
        found = weights_of(start.value, start.axis, start=True)
        weights = {names.parameters[weight]: axis for weight, axis in found}
    except FoldError as error:
        problem = str(error)
    name = names[start.call.module]
    place = BranchPlace(
        branch=name,
        start=start.form,
        width=start.value.shape[start.axis],
        leaf=start.leaf,
        axis=start.axis,
        weights=weights,
    )
    site = StreamSite(model, name, _stack(names, stream), place)
    site.computed = True
    site.computed_fold_problem = problem
    return site


def _stack(names: ModuleNames, stream: Stream) -> str:
    """Return the name of the module that contains the layers of a stream."""
    layers = [names.of(residual).split(".") for residual in stream.residuals]
    parts = takewhile(lambda parts: len(set(parts)) == 1, zip(*layers, strict=False))
    shared = [part for part, *_ in parts]
    one = len(layers) == 1 or (shared and shared[-1].isdigit())
    return layer_stack(".".join(shared if one else [*shared, "0"]), "layers")


def _feeds(reader: Value, stream: Stream) -> bool:
    sums = [residual.sum for residual in reversed(stream.residuals)]
    return reader in sums or any(descends(sum_, reader) for sum_ in sums)
