"""Dataclasses built from JSON, with their types checked by msgspec."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from admin_init.errors import AdminInitError

T = TypeVar("T")


def from_json(cls: type[T], values: Any, *, complete: bool = False) -> T:
    """Build a dataclass, or a list of them, from mappings, lists and plain values.

    Args:
        cls: The dataclass. Its fields may contain other dataclasses, also in lists or mappings.
        values: The content of the JSON file.
        complete: Require every field, also in nested dataclasses, instead of using defaults.

    Raises:
        AdminInitError: A field is missing, unknown or of the wrong type, or the dataclass refuses
            its value.
    """
    try:
        built = msgspec.convert(values, cls)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter for a surrogate
        if isinstance(error.__cause__, AdminInitError):
            raise error.__cause__ from None
        raise AdminInitError(_fault(cls, values, str(error))) from error
    if problems := list(_other_fields(values, built, complete)):
        raise AdminInitError(f"{'; '.join(problems)}.")
    return built


def _fault(cls: type, values: Any, message: str) -> str:
    """Add the value to a message of msgspec: ``Expected `int`, got `str` - at `$.field[0]```."""
    fault, path = re.findall(r"(?s)^(.*?)(?: - at `\$\.?([][\w.]*)`)?$", message)[0]
    where = f"{cls.__name__}: `{path}`" if path else cls.__name__
    hint: Any = cls
    for index, name in re.findall(r"\[(\d+|\.{3})\]|(\w+)", path):
        hint = get_type_hints(hint)[name] if name else get_args(hint)[-1 if index == "..." else 0]
        if get_origin(hint) in (Union, UnionType):
            hint = next(one for one in get_args(hint) if one is not NoneType)
        if "..." not in path:  # `...` is a value of a mapping, whose key msgspec does not tell
            values = values[name or int(index)]
    if "..." not in path:
        where += f" is {reprlib.repr(values)}"
    if fault.startswith("Invalid enum value"):  # msgspec quotes it with its control characters
        fault = f"Must be one of {', '.join(map(str, get_args(hint)))}"
    return f"{where}: {fault[0].lower()}{fault[1:]}."


def _other_fields(given: Any, built: Any, complete: bool) -> Iterator[str]:
    """Describe unknown fields, which msgspec ignores, and missing fields."""
    pairs: list[tuple[Any, Any]] = []
    if dataclasses.is_dataclass(built):
        names = [field.name for field in dataclasses.fields(built)]
        cls = type(built).__name__
        yield from (f"{cls}: unknown field {reprlib.repr(n)}" for n in given if n not in names)
        yield from (f"{cls}: `{n}` is missing" for n in names if complete and n not in given)
        pairs = [(given[name], getattr(built, name)) for name in names if name in given]
    elif isinstance(built, dict) and built is not given:
        pairs = [(given[key], value) for key, value in built.items()]
    elif isinstance(built, list | tuple) and built is not given:
        pairs = list(zip(given, built, strict=True))
    for one in pairs:
        yield from _other_fields(*one, complete)
