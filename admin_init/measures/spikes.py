"""Loss spikes."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any


class SpikeDetector:
    """Finds losses more than ``margin`` above the rolling median of the last ``window`` steps.

    The median is that of the steps before, fewer at the start of a run. A loss that is not finite
    is a spike where the one before was finite, and enters no median.

    Args:
        margin: In the loss's unit, nats per token.
        window: Number of steps.

    Raises:
        ValueError: ``margin`` is negative or ``window`` below 1.
    """

    def __init__(self, margin: float = 0.1, window: int = 201) -> None:
        if not margin >= 0 or window < 1:
            raise ValueError(
                "`margin` must be at least 0 and `window` at least 1, but they are "
                f"{margin} and {window}."
            )
        self.margin = margin
        self._losses: deque[float] = deque(maxlen=window)
        self._finite = True

    @property
    def median(self) -> float:
        """Rolling median of the losses so far; NaN before the first."""
        return statistics.median(self._losses) if self._losses else math.nan

    def update(self, loss: float) -> bool:
        """Take the loss of the next step, and say whether it is a spike."""
        if not math.isfinite(loss):
            broke, self._finite = self._finite, False
            return broke
        self._finite = True
        spike = loss > self.median + self.margin
        self._losses.append(loss)
        return spike

    def state_dict(self) -> dict[str, Any]:
        """Return the losses in the window, as primitives."""
        return {"losses": list(self._losses), "finite": self._finite}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the losses of :meth:`state_dict`."""
        self._losses.clear()
        self._losses.extend(state_dict["losses"])
        self._finite = state_dict["finite"]
