"""The settings that a comparison's runs were trained with, kept beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from admin_init.errors import AdminInitError
from admin_init.files import read_checked, write_checked
from admin_init.lab.comparison import Comparison
from admin_init.typed_json import fits, from_json

T = TypeVar("T")

SETTINGS = "comparison.json"

# What may change when a comparison is repeated: it decides which runs there are, how they are
# scheduled and what is said of them, not what comes of one.
_FREE = (
    "title",
    "output",
    "grid",
    "share",
    "workers",
    "threads",
    "monitor_every",
    "criteria",
    "studies",
)


def write_settings(comparison: Comparison, entropy: float) -> None:
    """Keep the settings, and the unigram entropy in nats that its runs are judged by."""
    write_checked(Path(comparison.output) / SETTINGS, _values(comparison) | {"entropy": entropy})


def read_settings(folder: Path) -> tuple[Comparison, float]:
    """Read what :func:`write_settings` wrote.

    Raises:
        AdminInitError: The folder is not that of a comparison, or of one before there was this, or
            the file is damaged or was edited.
    """
    if not (folder / SETTINGS).exists():
        raise AdminInitError(f"{folder} holds no comparison: it has no {SETTINGS}.")
    if _read(folder, dict).get("entropy") is None:
        raise AdminInitError(
            f"{folder / SETTINGS} was written by an earlier version. Repeat the comparison there: "
            "no finished run is trained again."
        )
    return _read(folder, _settings)


def _settings(values: dict[str, Any]) -> tuple[Comparison, float]:
    entropy = values.pop("entropy")
    if not (fits(float, entropy) and 0 < entropy < math.inf):
        raise AdminInitError(f"`entropy` must be a positive number, but is {entropy!r}.")
    missing = [name for name in ("corpus", "grid") if name not in values]
    if missing:
        raise AdminInitError(f"`{'` and `'.join(missing)}` is missing.")
    return from_json(Comparison, values), entropy


def _read(folder: Path, build: Callable[[dict[str, Any]], T]) -> T:
    try:
        return read_checked(folder / SETTINGS, build)
    except AdminInitError as error:
        raise AdminInitError(
            f"{error} Remove the file, and repeat the comparison there, with the settings that its "
            "runs were trained with: no finished run is trained again."
        ) from error


def check_unchanged(comparison: Comparison) -> None:
    """Refuse a folder that holds runs of other settings.

    Raises:
        AdminInitError: It names what was changed, or the file is damaged or was edited.
    """
    output = Path(comparison.output)
    if not (output / SETTINGS).exists():
        return
    changed = differences(_values(Comparison()) | _read(output, dict), comparison)
    if changed:
        raise AdminInitError(
            f"{output} holds runs of other settings: "
            + "; ".join(f"`{key}` was {before}, is {now}" for key, (before, now) in changed.items())
            + ". Choose another `output`, or remove that folder."
        )


def differences(before: dict[str, Any], comparison: Comparison) -> dict[str, tuple[Any, Any]]:
    """Return the settings that decide what comes of a run and differ, as pairs, by name."""
    values = _values(comparison)
    return {
        key: (before[key], values[key])
        for key in values
        if key not in _FREE and before[key] != values[key]
    }


def _values(comparison: Comparison) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(comparison)))
    return values  # as they are read back: a tuple is a list then
