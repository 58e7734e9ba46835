"""Dataclasses built from JSON, with their types checked."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from admin_init.errors import AdminInitError

T = TypeVar("T")


def from_json(cls: type[T], values: Any, *, complete: bool = False) -> T:
    """Build a dataclass from mappings, lists and plain values, and look at their types.

    Args:
        cls: The dataclass; its fields may be dataclasses again, or lists of them.
        values: What JSON holds of it.
        complete: Whether no field may be left to its default, also in dataclasses within.

    Raises:
        AdminInitError: A field is missing, unknown or of another type; the message names them all.
    """
    if not isinstance(values, dict):
        raise AdminInitError(f"{cls.__name__} must be a mapping, but is {type(values).__name__}.")
    hints, found = get_type_hints(cls), {}
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    problems = [f"unknown field {reprlib.repr(name)}" for name in values if name not in fields]
    for name, field in fields.items():
        if name in values:
            try:
                found[name] = _fitting(hints[name], values[name], complete)
            except TypeError as error:
                plain = re.sub(r"Annotated\[(.*?), .*\]", r"\1", str(field.type))
                fault = f"must be a {plain}, but is {reprlib.repr(values[name])}"
                problems.append(f"`{name}` {error if error.args else fault}")
        elif complete or field.default is field.default_factory is dataclasses.MISSING:
            problems.append(f"`{name}` is missing")
    if problems:
        raise AdminInitError(f"{cls.__name__}: {'; '.join(problems)}.")
    return cls(**found)


def fits(hint: Any, value: Any) -> bool:
    """Say whether a value from JSON is of a type, such as ``list[float]``."""
    try:
        _fitting(hint, value, complete=False)
    except (TypeError, AdminInitError):
        return False
    return True


def _fitting(hint: Any, value: Any, complete: bool) -> Any:
    """Return ``value`` as ``hint`` has it, lists as tuples where need be; else raise TypeError."""
    of, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, complete=complete)  # type: ignore[arg-type]
    if of in (Union, UnionType):
        if value is None and NoneType in arguments:
            return value
        return _fitting(next(one for one in arguments if one is not NoneType), value, complete)
    if of in (list, tuple):
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a list, but is {type(value).__name__}")
        return of(_fitting(arguments[0], item, complete) for item in value)
    if of is dict and isinstance(value, dict):
        return {key: _fitting(arguments[1], item, complete) for key, item in value.items()}
    if of is Literal and value not in arguments and isinstance(value, str):
        known = ", ".join(map(str, arguments))
        raise TypeError(f"is {reprlib.repr(value)}, but must be one of {known}")
    if not _is(hint, value):
        raise TypeError
    return value


def _is(hint: Any, value: Any) -> bool:
    if hint is Any or get_origin(hint) is Literal:
        return hint is Any or value in get_args(hint)
    wanted = (int, float) if hint is float else hint
    plain = isinstance(wanted, type | tuple) and isinstance(value, wanted)
    return plain and (hint is bool or not isinstance(value, bool))
