"""Steps in the graph of a forward pass that keep, select or scale the elements of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from admin_init.adapters.computation.graph import SAME_ELEMENTS, Value, descends

_SAME = frozenset(
    {SAME_ELEMENTS, "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "clone", "contiguous"}
    | {"copy", "detach", "lift_fresh", "movedim", "permute", "reshape", "squeeze", "t", "to"}
    | {"transpose", "unsqueeze", "view"}
)
_SELECTION = frozenset(
    {"as_strided", "chunk", "diagonal", "expand", "flip", "gather", "index", "index_select"}
    | {"narrow", "repeat", "roll", "select", "slice", "split", "split_with_sizes", "unbind"}
)
_PRODUCTS = frozenset({"addmm", "baddbmm", "bmm", "convolution", "embedding", "mm"})
_SMALL = 16
"""Number of operations that compute a mask or a factor, at most."""


def same(value: Value) -> Value | None:
    """Return the input that ``value`` has all elements of, in whatever shape and type, if any."""
    if value.op not in _SAME or not value.inputs:
        return None
    return value.inputs[-1 if value.op == "copy" else 0]


def selected(value: Value) -> Value | None:
    """Return the input of which ``value`` has some elements, if there is one."""
    return value.inputs[0] if value.op in _SELECTION and value.inputs else None


def scaled(value: Value, shortcut: Value | None = None) -> Value | None:
    """Return the input of which ``value`` is a multiple (dropout, a mask, a factor), if any.

    Args:
        value: Any value.
        shortcut: What factors must not depend on. By default, they must be parameters, inputs of
            the pass, or random.
    """
    if value.op in ("dropout", "_fused_dropout", "masked_fill", "native_dropout", "neg"):
        zeros = value.op != "masked_fill" or value.constants[-1:] == (0,)
        return value.inputs[0] if zeros else None
    if value.op not in ("mul", "div"):
        return None
    # A divisor is a factor, a dividend is not.
    for place, term in enumerate(value.inputs[: 1 if value.op == "div" else 2]):
        others = value.inputs[:place] + value.inputs[place + 1 :]
        if term.shape == value.shape and all(_is_factor(other, term, shortcut) for other in others):
            return term
    return None


def origin(value: Value, shortcut: Value | None = None) -> Value | None:
    """Return the input that ``value`` is a view, a selection or a multiple of, if any."""
    return same(value) or selected(value) or scaled(value, shortcut)


def path_back(value: Value, to: Value, *, factors: bool = False) -> list[Value] | None:
    """Return the values from ``value`` back to ``to`` that have the same elements, if they do.

    Args:
        value: The last one.
        to: The first one.
        factors: Whether they may be multiples of it.
    """
    path = [value]
    while path[-1] is not to:
        step = same(path[-1]) or (scaled(path[-1]) if factors else None)
        if step is None or step.index < to.index:
            return None
        path.append(step)
    return path


def readers(value: Value) -> Iterator[Value]:
    """Yield what was computed from the elements of ``value``, in whatever shape and type."""
    for reader in value.readers:
        if same(reader) is value:
            yield from readers(reader)
        elif not (reader.op == "copy" and reader.inputs[-1] is not value):  # overwritten
            yield reader


def axis_back(path: Sequence[Value], axis: int) -> int | None:
    """Follow an axis, counted from the last (-1), along a path of values, each from the next.

    Returns:
        The axis in the last value; None if its channels are not along one axis there.
    """
    for value, before in pairwise(path):
        size = value.shape[axis]
        if value.memory is before.memory and value.op != "copy":
            stride = value.strides[axis]
            axes = [
                i - len(before.shape)
                for i, (n, step) in enumerate(zip(before.shape, before.strides, strict=True))
                if n == size and step == stride
            ]
            if not axes:
                return None
            axis = axis if axis in axes else axes[0]
        elif len(before.shape) < -axis or before.shape[axis] != size:
            return None
    return axis


def _is_factor(value: Value, of: Value, shortcut: Value | None) -> bool:
    if value is of or descends(value, of):
        return False  # as in a gate, or in a norm that is written out
    if shortcut is not None:
        return value is not shortcut and not descends(value, shortcut)
    seen, waiting = {value}, [value]
    while waiting and len(seen) <= _SMALL:
        value = waiting.pop()
        if value.op in _PRODUCTS:
            return False
        new = set(value.inputs) - seen
        seen |= new
        waiting += new
    return not waiting
