"""Learning-rate sensitivity and the largest stable learning rate."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field


def lr_sensitivity(losses: Mapping[float, float], initial_loss: float) -> float:
    r"""Compute the learning-rate sensitivity (Wortsman et al., arXiv 2309.14322, section 2.2).

    The sensitivity is :math:`E_\eta[\min(L(\eta), L_0) - \min_\eta L(\eta)]`, the average cost of a
    wrong learning rate. Wortsman et al. use half-decade steps from 3e-4 to 3e-1. Do not compare
    sensitivities over different ranges, or of methods that change the effect of the learning rate.

    Args:
        losses: Final validation loss by learning rate. NaN counts as ``initial_loss``.
        initial_loss: Validation loss L_0 at initialization.

    Returns:
        The sensitivity in the unit of the losses; 0 if all learning rates do equally well.

    Raises:
        ValueError: There are no losses, or the initial loss is not finite.

    Examples:
        >>> lr_sensitivity({1e-3: 2.0, 1e-2: 3.0, 1e-1: float("nan")}, initial_loss=9.0)
        2.666...
    """
    if not losses:
        raise ValueError("`losses` must have at least one learning rate, but is empty.")
    if not math.isfinite(initial_loss):
        raise ValueError(f"`initial_loss` must be finite, but is {initial_loss}.")
    reached = [
        initial_loss if math.isnan(loss) else min(loss, initial_loss) for loss in losses.values()
    ]
    return statistics.fmean(reached) - min(reached)


RAMP_PEAK = 5e-2
"""Last learning rate of the ramp of :class:`LargestStableRate`."""


@dataclass(kw_only=True)
class LargestStableRate:
    """Finds the largest stable learning rate in one run whose rate grows at every step.

    The protocol is that of KEEL (arXiv 2601.19895): the learning rate grows linearly from 0 to 5e-2
    (``RAMP_PEAK``), and the last rate before the run diverges is the result. The paper names the
    three kinds of divergence; the default thresholds are ours. Spikes and stagnation are judged on
    the running median of the loss, so that no single batch decides:

    * **not finite**: the loss is NaN or infinite.
    * **an unrecovered spike**: the median stays more than ``margin`` above its own best for
      ``recovery`` steps. The divergence starts with the spike.
    * **stagnation**, or too slow convergence: within ``patience`` steps, not counting spikes, the
      median has not fallen by ``progress``. The divergence starts after the last progress. Any rate
      stagnates once the task is learned, or on a plateau of the task, so the ramp should end
      before.

    Examples:
        >>> judge = LargestStableRate()
        >>> for rate, loss in [(0.01, 9.0), (0.02, 8.0), (0.03, float("inf"))]:
        ...     diverged = judge.update(rate, loss)
        >>> judge.rate, judge.reason
        (0.02, 'the loss is inf')
    """

    window: int = 11
    """Number of steps of the running median."""
    margin: float = 0.1
    """Height of a spike above the best median, in nats."""
    recovery: int = 50
    """Number of steps after which a spike counts as unrecovered."""
    progress: float = 0.05
    """Decrease of the median that counts as progress, in nats. It is above the noise of a run that
    is stuck at the unigram entropy."""
    patience: int = 50
    """Number of steps without progress that count as stagnation."""

    step: int = field(default=0, init=False)
    """Number of steps so far."""
    rate: float = field(default=0.0, init=False)
    """The largest stable learning rate so far; 0 if the run diverged at its first step."""
    diverged_at: int | None = field(default=None, init=False)
    """Index (from 0) of the step at which the divergence starts, or None."""
    reason: str | None = field(default=None, init=False)
    """Description of the divergence, or None."""

    def __post_init__(self) -> None:
        problems = [
            f"`{name}` is {value}"
            for name in ("window", "recovery", "patience")
            if (value := getattr(self, name)) < 1
        ]
        if problems:
            raise ValueError(f"Numbers of steps must be at least 1, but {', '.join(problems)}.")
        self._losses: deque[float] = deque(maxlen=self.window)
        self._best = self._mark = math.inf
        self._idle = 0
        # Step and rate of the last step without a spike, and of the last progress.
        self._well = self._progressed = (-1, 0.0)

    def update(self, learning_rate: float, loss: float) -> bool:
        """Record the next step of the ramp, and return whether the run has diverged.

        Args:
            learning_rate: Learning rate of the update that uses this loss.
            loss: Training loss of the step, in nats per token.

        Returns:
            True once divergence is certain; the run can then be stopped.
        """
        if self.diverged_at is not None:
            return True
        here = (self.step, learning_rate)
        self.step += 1
        if not math.isfinite(loss):
            return self._diverge(self._well, f"the loss is {loss}")
        self._losses.append(loss)
        median = statistics.median(self._losses)
        self._best = min(self._best, median)
        if median <= self._best + self.margin:
            self._well = here
            self._idle += 1
        if median <= self._mark - self.progress:
            self._mark, self._progressed, self._idle = median, here, 0
        if here[0] - self._well[0] >= self.recovery:
            return self._diverge(
                self._well,
                f"a spike to {median:.2f} did not come back to {self._best:.2f} in "
                f"{self.recovery} steps",
            )
        if self._idle >= self.patience:
            return self._diverge(
                self._progressed,
                f"the loss stagnated: it did not fall by {self.progress} below {self._mark:.2f} "
                f"in {self.patience} steps",
            )
        self.rate = self._well[1]
        return False

    def _diverge(self, last: tuple[int, float], reason: str) -> bool:
        self.diverged_at, self.rate, self.reason = last[0] + 1, last[1], reason
        return True
