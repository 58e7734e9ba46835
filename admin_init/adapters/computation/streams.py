"""Pre-LN streams in the graph of a forward pass: x_0 + f_1(LN x_0) + f_2(LN x_1) + ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from admin_init.adapters.computation.graph import ForwardGraph, Value, descends
from admin_init.adapters.computation.paths import readers
from admin_init.adapters.computation.residuals import (
    SUMS,
    Residual,
    find_residuals,
    roots,
    terms,
)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Stream:
    """A chain of sums, each of which is the shortcut of the next one."""

    start: Value
    """x_0, as the first norm and the first sum read it."""
    residuals: list[Residual] = field(default_factory=list)
    """Its sums in the order of execution; the last one, before the final norm, may be Post-LN."""


class StreamSums(Generic[T]):
    """Sums whose shortcut leads back through sums to the start of a stream.

    It is to be asked for them in the order of execution, and may be asked during the pass.

    Args:
        begins: Returns what stands for the stream that starts with a value, or None.
    """

    def __init__(self, begins: Callable[[Value], T | None]) -> None:
        self._begins = begins
        self._seen: dict[Value, tuple[T, Value, Value] | None] = {}

    def of(self, value: Value) -> T | None:
        """Return the stream whose start or sum ``value`` is, up to views, casts and factors."""
        for root in roots(value):
            if (stream := self._begins(root)) is not None:
                return stream
            if (found := self.sum(root)) is not None:
                return found[0]
        return None

    def sum(self, value: Value) -> tuple[T, Value, Value] | None:
        """Return what :meth:`terms` returns for the operation that computed ``value``."""
        if value.op not in SUMS:
            return None
        if value not in self._seen:
            self._seen[value] = self.terms(value.op, value.inputs)
        return self._seen[value]

    def terms(self, op: str, inputs: Sequence[Value]) -> tuple[T, Value, Value] | None:
        """Return the stream that an operation adds a branch to, its shortcut and the branch.

        Other than :func:`~.residuals.terms`, it also knows the second of the two sums of
        x + f(LN x) + g(LN x).
        """
        if op not in SUMS or len(inputs) < 2:
            return None
        residual = terms(op, inputs)
        if residual is not None:
            stream = self.of(residual[0])
            return None if stream is None else (stream, *residual)
        # addcmul(x, gain, f) is x + gain * f.
        first, last = inputs[0], inputs[-1]
        streams = (self.of(first), self.of(last)) if first.shape == last.shape else (None, None)
        if streams[0] is not None and streams[1] is None:
            return streams[0], first, last
        if streams[1] is not None and streams[0] is None:
            return streams[1], last, first
        return None


def find_streams(graph: ForwardGraph) -> list[Stream]:
    """Find the Pre-LN streams of a pass, in the order of execution.

    The cross-attention of a decoder is part of the decoder's stream. Two streams may have one x_0.
    """
    found: list[Stream] = []
    of: dict[Value, Stream] = {}
    sums: StreamSums[Stream] = StreamSums(of.get)
    residuals = {residual.sum: residual for residual in find_residuals(graph)}
    for value in graph.values:
        residual = residuals.get(value)
        if residual is None:
            sums.sum(value)  # in order, so that no later question goes far back
            continue
        stream = sums.of(residual.shortcut)
        if stream is not None and stream.start in roots(residual.shortcut):
            stream = None  # another one with the same x_0
        if stream is None and residual.kind == "Pre-LN":
            stream = Stream(_start(residual))
            of.setdefault(stream.start, stream)
            found.append(stream)
        if stream is not None:
            between = [_residual(one, stream, sums) for one in _between(residual, of, sums)]
            for one in (*reversed(between), residual):
                stream.residuals.append(one)
                of[one.sum] = stream
    for stream in found:
        # The last sum of x + f(LN x) + g(LN x) is no shortcut.
        while len(after := list(readers(stream.residuals[-1].sum))) == 1 and sums.sum(after[0]):
            stream.residuals.append(_residual(after[0], stream, sums))
    return found


def _start(residual: Residual) -> Value:
    """Return the last of the values that the shortcut is a multiple of that the branch reads."""
    values = roots(residual.shortcut)
    return next((x for x in values if descends(residual.branch, x)), values[-1])


def _between(
    residual: Residual, of: Mapping[Value, Stream], sums: StreamSums[Stream]
) -> Iterator[Value]:
    """Yield the sums from the shortcut back to one that is known, or to the start."""
    value = residual.shortcut
    while not any(root in of for root in roots(value)):
        value = next(root for root in roots(value) if sums.sum(root))
        yield value
        found = sums.sum(value)
        assert found is not None
        value = found[1]


def _residual(value: Value, stream: Stream, sums: StreamSums[Stream]) -> Residual:
    found = sums.sum(value)
    assert found is not None
    _, shortcut, branch = found
    return Residual(value, shortcut, branch, "Pre-LN", stream.residuals[-1].norm)
