"""Number types with bounds, and a check of values against their types.

jsonargparse's number types do not serve: they turn a number into an object of their own class, so
that ``torch.load(weights_only=True)`` refuses a checkpoint that contains one, and they do not check
values from Python code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from admin_init.errors import AdminInitError

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy, and so Lightning, accepts."""


@dataclass(frozen=True)
class Bound:
    """Condition on a number, as an annotation of its type."""

    words: str
    """The condition in words, after "must be"."""
    holds: Callable[[Any], bool]


def at_least(least: float) -> Bound:
    """Bound a number from below."""
    return Bound(f"at least {least}", lambda value: value >= least)


POSITIVE = Bound("positive", lambda value: value > 0)

PositiveInt = Annotated[int, at_least(1)]
NonNegativeInt = Annotated[int, at_least(0)]
NonNegativeFloat = Annotated[float, at_least(0)]
PositiveFloat = Annotated[float, POSITIVE]
Probability = Annotated[float, Bound("at least 0 and below 1", lambda value: 0 <= value < 1)]
Seed = Annotated[int, Bound(f"from 0 to {MAX_SEED}", lambda value: 0 <= value <= MAX_SEED)]


def check(
    owner: Any, values: Mapping[str, Any], error: type[AdminInitError] = AdminInitError
) -> None:
    """Check that values fit their types: within bounds, one of the choices, finite, not None.

    Args:
        owner: A dataclass or a function that declares the types, or a dictionary of types by name.
        values: Values by name, such as ``vars(self)`` or a function's ``locals()``.
        error: Class of the error.

    Raises:
        AdminInitError: Some values do not fit; the message names all of them.
    """
    if found := type_problems(owner, values, error):
        raise error("\n".join(found))


def type_problems(
    owner: Any,
    values: Mapping[str, Any],
    error: type[AdminInitError] = AdminInitError,
    within: str = "",
) -> list[str]:
    """List the problems that :func:`check` reports, also in fields of dataclasses among the values.

    Raises:
        AdminInitError: A value is None where None is not allowed, so that the caller cannot check
            anything else.
    """
    found, lacking = [], False
    for name, hint in (owner if isinstance(owner, dict) else _hints(owner)).items():
        value = values.get(name)
        if is_dataclass(value):
            found += type_problems(type(value), vars(value), error, f"{within}{name}.")
        elif name in values and (fault := _fault(hint, value)):
            found.append(f"`{within}{name}` must be {fault}.")
            lacking |= value is None
    if lacking:
        raise error("\n".join(found))
    return found


@cache
def _hints(owner: Any) -> dict[str, Any]:
    return get_type_hints(owner, include_extras=True)


def _fault(hint: Any, value: Any) -> str | None:
    """Describe what a value must be and what it is; None if it fits its type."""
    if value is not None and NoneType in get_args(hint):
        hint = get_args(hint)[0]
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Annotated:
        plain, bound = arguments
        if (fault := _fault(plain, value)) and value is not None:
            return fault
        fits, wanted = not fault and (value is None or bound.holds(value)), bound.words
    elif kind is Literal:
        fits, wanted = value in arguments, f"one of {', '.join(arguments)}"
    elif isinstance(value, list | tuple) and arguments:
        faults = (fault for item in value if (fault := _fault(arguments[0], item)))
        if value or get_origin(arguments[0]) is not Annotated:
            return next(faults, None)
        fits, wanted = False, "a list of at least one number"
    elif value is None:
        fits = hint is Any or NoneType in arguments
        wanted = getattr(hint, "__name__", hint)
    else:
        fits, wanted = not isinstance(value, float) or math.isfinite(value), "finite"
    return None if fits else f"{wanted}, but is {value!r}"
