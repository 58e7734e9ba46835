"""Residual connections in the graph of a forward pass, whatever the modules are called.

A residual connection is a sum of x and f(x): one term was computed from the other. It is Post-LN if
the sum is read by a norm and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from admin_init.adapters.computation.graph import Call, ForwardGraph, Value, descends
from admin_init.adapters.computation.norm_formulas import formula_output
from admin_init.adapters.computation.norms import fit_norm
from admin_init.adapters.computation.paths import (
    axis_back,
    origin,
    path_back,
    readers,
    same,
    scaled,
)
from admin_init.scaled_skip import ScaledSkip

SUMS = frozenset({"add", "sub", "addcmul"})
_ELEMENTWISE = frozenset({"add", "addcmul", "div", "lerp", "mul", "neg", "sub", "where"})
NORM_FUNCTIONS = frozenset({"native_layer_norm", "_fused_rms_norm"})


@dataclass(frozen=True, eq=False)
class Norm:
    """One use of a norm."""

    call: Call | None
    """The call of the module that computes it; None if a function does."""
    input: Value
    output: Value
    axis: int
    """The axis of the channels in the input, counted from the last (-1)."""


@dataclass(frozen=True, eq=False)
class Residual:
    """A residual connection."""

    sum: Value
    shortcut: Value
    """The term x of the sum."""
    branch: Value
    """The term f(x)."""
    kind: Literal["Post-LN", "Pre-LN"]
    norm: Norm
    """The norm that reads the sum; in a Pre-LN connection, the norm of x."""
    obstacle: str | None = None
    """What else happens to the sum before the norm, if that keeps omega from it."""

    @property
    def axis(self) -> int | None:
        """The axis of the channels in the sum, counted from the last (-1), if there is one."""
        path = path_back(self.norm.input, self.sum, factors=True)
        return None if path is None else axis_back(path, self.norm.axis)

    @property
    def norm_module(self) -> nn.Module | None:
        """The module that computes the norm; None if a function does."""
        return None if self.norm.call is None else self.norm.call.module

    @property
    def follows_a_sum(self) -> bool:
        """Whether x is itself a sum of an x and an f(x), as in the middle of a Pre-LN stream."""
        return any(terms(value.op, value.inputs) for value in roots(self.shortcut))

    @property
    def width(self) -> int:
        """Number of channels D."""
        return self.norm.input.shape[self.norm.axis]


def find_residuals(graph: ForwardGraph) -> list[Residual]:
    """Find the residual connections of a pass, in the order of execution.

    Sums that are neither Post-LN nor Pre-LN are left out.
    """
    norms = _Norms(graph)
    found: list[Residual] = []
    for value in graph.values:
        summed = terms(value.op, value.inputs)
        if summed is None or value.shape != summed[0].shape:
            continue
        shortcut, branch = summed
        total, obstacle = _total(value)
        after = norms.reading(total, list(readers(total)))
        before = norms.before(shortcut, branch)
        if after is not None and (before is None or norms.put_out(shortcut)):
            found.append(Residual(value, shortcut, branch, "Post-LN", after, obstacle))
        elif before is not None:
            found.append(Residual(value, shortcut, branch, "Pre-LN", before))
    return found


def _total(sum_: Value) -> tuple[Value, str | None]:
    """Return the last value that a sum alone leads to by factors, bounds and other terms.

    The second item says that there are bounds or other terms.
    """
    total, obstacle = sum_, None
    while len(reading := list(readers(total))) == 1:
        (reader,) = reading
        factor = scaled(reader)
        if reader.op in SUMS and len(reader.inputs) > 1:
            if terms(reader.op, reader.inputs) is not None:
                break  # a residual connection of its own
            obstacle = "its sum has another term than x and f(x)"
        elif reader.op == "clamp":
            obstacle = "its sum is clamped before the norm"
        elif factor is None or path_back(factor, total) is None:
            break
        total = reader
    return total, obstacle


def source(shortcut: Value, norms: dict[Value, Residual]) -> Residual | None:
    """Return the Post-LN connection whose norm put out the elements of ``shortcut``, if any.

    Args:
        shortcut: The term x of a sum.
        norms: The Post-LN connections by the output of their norm.
    """
    value: Value | None = shortcut
    while value is not None and value not in norms:
        value = origin(value)
    return None if value is None else norms[value]


def mixed_sources(shortcut: Value, norms: dict[Value, Residual]) -> list[Residual]:
    """Return the Post-LN connections of whose outputs ``shortcut`` is an elementwise function."""
    seen, waiting, found = {shortcut}, [shortcut], []
    while waiting:
        value = waiting.pop()
        if value in norms:
            found.append(norms[value])
            continue
        step = origin(value)
        steps = [step] if step else value.inputs if value.op in _ELEMENTWISE else ()
        waiting += set(steps) - seen
        seen |= set(steps)
    return found


def terms(op: str, inputs: Sequence[Value]) -> tuple[Value, Value] | None:
    """Return x and f(x) if an operation is their sum."""
    if op not in SUMS or len(inputs) < 2:
        return None
    # addcmul(x, gain, f) is x + gain * f.
    for second in reversed(inputs[1:]):
        for shortcut, branch in ((inputs[0], second), (second, inputs[0])):
            root = roots(shortcut)[-1]
            if shortcut.shape == branch.shape and descends(branch, root):
                return None if root in roots(branch) else (shortcut, branch)
    return None


def entering(
    op: str, tensors: Sequence[Tensor], constants: Sequence[float], position: int
) -> Tensor:
    """Return the term at a position of a sum's arguments with the factor that the sum gives it.

    Args:
        op: One of :data:`SUMS`.
        tensors: The arguments that are tensors.
        constants: The others: the factor of the terms but the first, if it is not 1.
        position: 0 for the first.
    """
    if position == 0:
        return tensors[0]
    term = tensors[1] * tensors[2] if op == "addcmul" else tensors[1]
    return term * constants[0] if constants else term


def roots(value: Value) -> list[Value]:
    """Return ``value``, what it is a view or a multiple of, what that is one of, and so on."""
    found = [value]
    while (before := same(found[-1]) or scaled(found[-1])) is not None:
        found.append(before)
    return found


def _leads_to(reader: Value, branch: Value) -> bool:
    return reader is branch or descends(branch, reader)


class _Norms:
    """The norms in a graph."""

    def __init__(self, graph: ForwardGraph) -> None:
        self._graph = graph
        self._axes: dict[tuple[int, tuple[int, ...]], int | None] = {}
        self._formulas: set[Value] = set()
        """Outputs of norms that are neither modules nor single operations."""

    def reading(self, value: Value, by: Sequence[Value]) -> Norm | None:
        """Return the norm of ``value`` in which all of its readers ``by`` are, if any."""
        if not by:
            return None
        first, last = min(by, key=_index).index, max(by, key=_index).index
        for call in reversed(self._graph.calls):
            if call.start <= first and last < call.stop:
                norm = self._module(call, value)
                if norm is not None:
                    return norm
        return self._function(value, by)

    def before(self, shortcut: Value, branch: Value) -> Norm | None:
        """Return the first of the norms through which alone a branch reads x, if it does so."""
        for value in roots(shortcut):
            through = [reader for reader in readers(value) if _leads_to(reader, branch)]
            if (norm := self.reading(value, through)) is not None:
                return norm
            norms = [self.reading(value, [reader]) for reader in through]
            if norms and norms[0] is not None and all(norms):
                return norms[0]
        return None

    def put_out(self, value: Value) -> bool:
        """Return whether ``value`` is the output of a norm, or a multiple of it."""
        while True:
            if value.op in NORM_FUNCTIONS or value in self._formulas:
                return True
            for returned in value.outputs:
                if any(self._module(returned.call, x) for x in returned.call.inputs[:1]):
                    return True
            before = same(value) or scaled(value)
            if before is None:
                return False
            value = before

    def _module(self, call: Call, value: Value) -> Norm | None:
        read = next((x for x in call.inputs if path_back(x, value) is not None), None)
        if read is None or len(call.outputs) != 1:
            return None
        output = call.outputs[0].value
        key = id(call.module), read.shape
        if output.shape != read.shape or not read.dtype.is_floating_point:
            return None
        if key not in self._axes:
            if _is_function_of(output, read):
                self._axes[key] = -1
            elif isinstance(call.module, ScaledSkip) or path_back(output, read, factors=True):
                self._axes[key] = None  # a multiple, as by dropout
            else:
                fit = fit_norm(call.module, read.shape, read.dtype)
                self._axes[key] = None if fit is None else fit.axis
        axis = self._axes[key]
        return None if axis is None else Norm(call, read, output, axis)

    def _function(self, value: Value, by: Sequence[Value]) -> Norm | None:
        output = min(by, key=_index)
        if output.op in NORM_FUNCTIONS:
            same_call = all(other.inputs == output.inputs for other in by)
            return Norm(None, output.inputs[0], output, -1) if same_call else None
        computed = formula_output(value, by)
        if computed is None:
            return None
        self._formulas.add(computed)
        return Norm(None, value, computed, -1)


def _is_function_of(output: Value, read: Value) -> bool:
    """Return whether ``output`` is torch's norm of ``read`` over the last axis alone."""
    if output.op not in NORM_FUNCTIONS or path_back(output.inputs[0], read) is None:
        return False
    *sizes, _ = output.constants  # and eps
    return sizes == [read.shape[-1]]


def _index(value: Value) -> int:
    return value.index
