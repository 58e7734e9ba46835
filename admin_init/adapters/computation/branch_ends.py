"""Where a residual branch ends: the module that omega divides, and the weights it folds into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from admin_init.adapters.computation.graph import Call, ForwardGraph, Output, Value
from admin_init.adapters.computation.paths import axis_back, origin, same, scaled
from admin_init.adapters.computation.residuals import NORM_FUNCTIONS, Residual, roots
from admin_init.errors import FoldError, UnsupportedModelError


@dataclass(frozen=True, eq=False)
class BranchEnd:
    """The output at which a branch ends."""

    output: Output
    axis: int
    """The axis of the channels in the output, counted from the last (-1)."""
    turn: Turn | None = None
    """Which of several calls it is; None if the module runs once."""


@dataclass(frozen=True, eq=False)
class Turn:
    """One of several calls of a module, all of them inside one call of another."""

    container: nn.Module
    number: int
    """1 for the first call."""


def branch_end(residual: Residual, graph: ForwardGraph) -> BranchEnd:
    """Return the last module whose output is f(x), up to dropout, factors, casts and views.

    Raises:
        UnsupportedModelError: There is none, or its output is also read elsewhere.
    """
    uses = graph.runs
    path, problem = [residual.branch], "no module returns its branch"
    found: list[BranchEnd] = []
    # The shortcut may be a copy of what the branch reads.
    root = roots(residual.shortcut)[-1]
    last = residual.sum
    while True:
        value = path[-1]
        if any(lives(reader) for reader in value.readers if reader is not last):
            problem = "its branch is also read elsewhere"
            break
        axis = None if residual.axis is None else axis_back(path, residual.axis)
        for output in value.outputs:
            runs = uses[output.call.module]
            turn = _turn(output.call, graph) if runs > 1 else None
            if axis is None:
                problem = "its branch has the channels along no single axis"
            elif runs == 1 or turn is not None:
                found.append(BranchEnd(output, axis, turn))
                break
            else:
                kind = type(output.call.module).__name__
                problem = f"its branch ends in a {kind} that runs {runs} times"
        before = origin(value, root)
        if before is None:
            break
        last = value
        path.append(before)
    if not found:
        raise UnsupportedModelError(problem)
    # A module that runs once needs no count of its calls.
    return next((end for end in reversed(found) if end.turn is None), found[-1])


def _turn(call: Call, graph: ForwardGraph) -> Turn | None:
    calls = [other for other in graph.calls if other.module is call.module]
    for outer in reversed(graph.calls):
        if outer.start <= call.start and call.stop <= outer.stop and graph.runs[outer.module] == 1:
            inside = all(outer.start <= c.start and c.stop <= outer.stop for c in calls)
            return Turn(outer.module, calls.index(call) + 1) if inside else None
    return None


def outputs_ending(branch: Value, shortcut: Value) -> Iterator[Output]:
    """Yield the outputs that are f(x) up to dropout, factors, casts and views, last ones first."""
    value: Value | None = branch
    root = roots(shortcut)[-1]
    while value is not None:
        yield from value.outputs
        value = origin(value, root)


def fold_weights(end: BranchEnd) -> list[tuple[nn.Parameter, int]]:
    """Return the parameters that the end of a branch is proportional to, each with its axis.

    Raises:
        FoldError: The branch does not end in a linear operation with parameters.
    """
    return list(weights_of(end.output.value, end.axis))


def weights_of(end: Value, axis: int, *, start: bool = False) -> Iterator[tuple[nn.Parameter, int]]:
    """Yield the parameters that a value is proportional to jointly, each with its axis.

    Args:
        end: The value; whatever reads it is to be scaled with it.
        axis: The axis of its channels, counted from the last (-1).
        start: Whether it is the input of a stream and not the end of a branch. It may then be
            looked up in tables, or be the output of a norm.

    Raises:
        FoldError: There are none.
    """
    verb = "its input comes from" if start else "its branch ends in"

    def weights(value: Value, axis: int) -> Iterator[tuple[nn.Parameter, int]]:
        if value.parameter is not None:
            if value.op:
                raise FoldError("the pass changes its weights")  # as with nn.Embedding(max_norm=)
            if sum(map(lives, value.readers)) > 1:
                raise FoldError("its weights are read by several operations")
            yield value.parameter, axis - len(value.shape) if axis >= 0 else axis
            return
        if value is not end and sum(map(lives, value.readers)) > 1:
            raise FoldError(f"{verb} an operation that is also read elsewhere")
        before = same(value) or scaled(value)
        if before is not None:
            step = axis_back([value, before], axis)
            if step is None:
                raise FoldError("its weights have the channels along no single axis")
            try:
                yield from list(weights(before, step))
            except FoldError:
                # The gain of a norm that is written out.
                gain = next((x for x in value.inputs if x.parameter is not None), None)
                gained = start and value.op == "mul" and axis == -1
                if gain is None or not gained or len(gain.shape) != 1:
                    raise
                yield from weights(gain, -1)
        elif value.op in ("add", "sub") and len(value.inputs) == 2:
            for term in value.inputs:
                yield from weights(term, axis)
        else:
            for operand, at in _operands(value, axis, start, verb):
                yield from weights(operand, at)

    return weights(end, axis)


def _operands(value: Value, axis: int, start: bool, verb: str) -> list[tuple[Value, int]]:
    """Return the operands that an operation's channels come from, with their axes."""
    if not value.op:
        raise FoldError(f"{verb} a tensor that is no parameter, such as a fixed table")
    bias: list[Value] = []
    if value.op in ("mm", "bmm", "addmm", "baddbmm"):
        *bias, left, right = value.inputs
        operands = [(right, -1) if axis == -1 else (left, -2)] if axis >= -2 else []
    elif value.op == "convolution" and not any(c is True for c in value.constants):
        _, weight, *bias = value.inputs
        operands = [(weight, -len(weight.shape))] if axis == 1 - len(value.shape) else []
        axis = -1
    elif start and value.op == "embedding":  # of a table and indices
        operands = [(value.inputs[0], -1)] if axis == -1 else []
    elif start and value.op in NORM_FUNCTIONS and len(value.inputs) > 1:
        operands = [(weight, -1) for weight in value.inputs[1:]] if axis == -1 else []
    else:
        raise FoldError(f"{verb} the operation `{value.op}`")
    if not operands:
        raise FoldError(f"{verb} the operation `{value.op}` along another axis")
    return operands + [(term, axis) for term in bias]


def lives(value: Value) -> bool:
    """Return whether anything reads ``value``, or a module returns it."""
    return bool(value.readers or value.outputs)
