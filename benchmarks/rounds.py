"""What rounds in which engines run in turns say of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def ratios(name: str, speeds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of the rounds' ratios of ``name`` over every other engine."""
    return {
        f"over {other}": round(statistics.median(map(float.__truediv__, speeds[name], theirs)), 3)
        for other, theirs in speeds.items()
        if other != name
    }
