"""Norms that are no module and no single operation, such as ``x * (x**2).mean(-1).rsqrt()``."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from admin_init.adapters.computation.graph import Value
from admin_init.adapters.computation.paths import same

_MEANS = frozenset({"linalg_vector_norm", "mean", "norm", "std", "sum", "var"})
_POWERS = {"clamp_min": 1, "expand": 1, "neg": 1, "reciprocal": -1, "rsqrt": -0.5, "sqrt": 0.5} | {
    "square": 2
}
_LONGEST = 24
"""Number of operations in a norm, at most."""
_EPS = 1e-3


def formula_output(value: Value, by: Sequence[Value]) -> Value | None:
    """Return the first value that all operations on ``value`` lead to, if it is a norm of it.

    It is one if a multiple of ``value`` gives the same (but for a small eps), thanks to means over
    the last axis.

    Args:
        value: The input.
        by: The operations that read it, or the copies of it.
    """
    degrees: dict[Value, float] = {value: 1}
    waiting: list[tuple[int, Value]] = []
    for reader in by:
        heappush(waiting, (reader.index, reader))
    means = False
    while waiting and len(degrees) <= _LONGEST:
        step = heappop(waiting)[1]
        if step in degrees:
            continue
        degree = _degree(step, value, degrees)
        if degree is None:
            return None
        degrees[step] = degree
        means |= step.op in _MEANS
        if not any(other not in degrees for _, other in waiting):
            if means and degree == 0 and step.shape == value.shape:
                return step
            waiting.clear()
        for reader in step.readers:
            heappush(waiting, (reader.index, reader))
    return None


def _degree(step: Value, value: Value, degrees: dict[Value, float]) -> float | None:
    """Return the power of c by which ``step`` grows if ``value`` grows by c; None if there is none.

    What is not computed from ``value`` does not grow.
    """
    found = [_known(term, degrees) for term in step.inputs]
    powers = [power for power in found if power is not None]
    numbers = [n for n in step.constants if isinstance(n, int | float) and not isinstance(n, bool)]
    factor: float | None = None
    if step.op == "mul":
        return sum(powers)
    if step.op == "div":
        return 2 * (found[0] or 0) - sum(powers)
    if step.op in ("add", "sub"):
        same_power = len(powers) == 2 and powers[0] == powers[1]
        eps = len(step.inputs) == 1 and abs(numbers[0]) <= _EPS
        factor = 1 if same_power or eps else None
    elif step.op == "pow":
        factor = numbers[0] if numbers else None
    elif step.op in _MEANS:
        over_last = step.shape in ((*value.shape[:-1], 1), value.shape[:-1])
        factor = (2 if step.op == "var" else 1) if over_last else None
    else:
        factor = 1 if same(step) is not None else _POWERS.get(step.op)
    return None if factor is None else factor * powers[0]


def _known(term: Value, degrees: dict[Value, float]) -> float | None:
    while term not in degrees and (before := same(term)) is not None:
        term = before
    return degrees.get(term)
