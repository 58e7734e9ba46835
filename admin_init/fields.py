"""Checks that all configurations share."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from admin_init.errors import AdminInitError


def check_given(config: Any) -> None:
    """See that no field of a dataclass is None that must not be.

    The command line takes YAML's ``null`` for a value of any type.

    Raises:
        AdminInitError: One is.
    """
    missing = [
        f"`{field.name}` must be {field.type}, but is None."
        for field in fields(config)
        if getattr(config, field.name) is None and "None" not in str(field.type)
    ]
    if missing:
        raise AdminInitError("\n".join(missing))
