"""The settings that a comparison's runs were trained with, kept beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from admin_init.errors import AdminInitError
from admin_init.files import read_json, write_json
from admin_init.lab.comparison import Comparison
from admin_init.lab.grid import Grid
from admin_init.lab.verdict import Criteria
from admin_init.translation.engine import FairseqConfig
from admin_init.translation.sources import CorpusConfig

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

_NESTED = {"corpus": CorpusConfig, "grid": Grid, "fairseq": FairseqConfig, "criteria": Criteria}


def write_settings(comparison: Comparison, entropy: float) -> None:
    """Keep the settings, and the unigram entropy in nats that its runs are judged by."""
    write_json(Path(comparison.output) / SETTINGS, _values(comparison) | {"entropy": entropy})


def read_settings(folder: Path) -> tuple[Comparison, float]:
    """Read what :func:`write_settings` wrote.

    Raises:
        AdminInitError: The folder is not that of a comparison, or of one before there was this.
    """
    if not (folder / SETTINGS).exists():
        raise AdminInitError(f"{folder} holds no comparison: it has no {SETTINGS}.")
    values = read_json(folder / SETTINGS)
    entropy = values.pop("entropy", None)
    if entropy is None:
        raise AdminInitError(
            f"{folder / SETTINGS} was written by an earlier version. Repeat the comparison there: "
            "no finished run is trained again."
        )
    for name, nested in _NESTED.items():
        values[name] = None if values[name] is None else nested(**values[name])
    return Comparison(**values), entropy


def check_unchanged(comparison: Comparison) -> None:
    """Refuse a folder that holds runs of other settings.

    Raises:
        AdminInitError: It names what was changed.
    """
    output = Path(comparison.output)
    if not (output / SETTINGS).exists():
        return
    changed = differences(_values(Comparison()) | read_json(output / SETTINGS), comparison)
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
