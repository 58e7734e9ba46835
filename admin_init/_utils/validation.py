"""Checks that all configurations share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from admin_init.errors import AdminInitError

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy takes, and Lightning with it."""


def check_given(config: Any) -> None:
    """See that no field of a dataclass is None that must not be, and that its numbers are finite.

    The command line takes YAML's ``null`` for a value of any type, and ``.nan`` for any float.

    Raises:
        AdminInitError: A field is neither.
    """
    values = {field: getattr(config, field.name) for field in fields(config)}
    problems = [
        f"`{field.name}` must be {field.type}, but is None."
        for field, value in values.items()
        if value is None and "None" not in str(field.type)
    ]
    problems += [
        f"`{field.name}` must be finite, but is {value}."
        for field, value in values.items()
        if not all(map(math.isfinite, _floats(value)))
    ]
    if problems:
        raise AdminInitError("\n".join(problems))


def check_numbers(least: float, most: float = math.inf, **values: Any) -> None:
    """See that numbers, or sequences of numbers, lie within bounds.

    Args:
        least: The lower bound.
        most: The upper bound.
        values: What is checked, by name.

    Raises:
        AdminInitError: A value is outside, is no number, or is a sequence without any.
    """
    wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
    for name, value in values.items():
        numbers = value if isinstance(value, Sequence) else [value]
        if not numbers or not all(n is not None and least <= n <= most for n in numbers):
            raise AdminInitError(f"`{name}` must be {wanted}, but is {value}.")


def _floats(value: Any) -> list[float]:
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, float)]
