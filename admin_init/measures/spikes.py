"""Detection of loss spikes."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any


class SpikeDetector:
    """Finds losses more than ``margin`` above the rolling median of the last ``window`` steps.

    The median is over the previous steps, of which there are fewer at the start of a run. A
    non-finite loss is a spike if the previous loss was finite; it does not enter the median.

    Args:
        margin: Height of a spike above the median, in the unit of the loss (nats per token).
        window: Number of steps of the median.

    Raises:
        ValueError: ``margin`` is negative or ``window`` is below 1.

    Examples:
        >>> detector = SpikeDetector(margin=0.1)
        >>> [detector.update(loss) for loss in (3.0, 2.9, 2.8, 4.0)]
        [False, False, False, True]
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
        """Record the loss of the next step, and return whether it is a spike."""
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
        """Restore the losses of :meth:`state_dict`."""
        self._losses.clear()
        self._losses.extend(state_dict["losses"])
        self._finite = state_dict["finite"]
