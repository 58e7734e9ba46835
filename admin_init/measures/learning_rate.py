"""Learning-rate sensitivity and the largest stable learning rate."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field


def lr_sensitivity(losses: Mapping[float, float], initial_loss: float) -> float:
    r"""Compute the learning-rate sensitivity (Wortsman et al., arXiv 2309.14322, section 2.2).

    It is :math:`E_\eta[\min(L(\eta), L_0) - \min_\eta L(\eta)]`: how much a wrong learning rate
    costs on average. Wortsman et al. take half-decade steps from 3e-4 to 3e-1. It is not comparable
    between methods that change what the learning rate means, nor between different ranges.

    Args:
        losses: Final validation loss by learning rate. NaN counts as ``initial_loss``.
        initial_loss: Validation loss L_0 at the initialization.

    Returns:
        In the losses' unit; 0 where all learning rates do equally well.

    Raises:
        ValueError: There are no losses, or the initial one is not finite.
    """
    if not losses:
        raise ValueError("`losses` must hold the loss of one learning rate at least, but is empty.")
    if not math.isfinite(initial_loss):
        raise ValueError(f"`initial_loss` must be finite, but is {initial_loss}.")
    reached = [
        initial_loss if math.isnan(loss) else min(loss, initial_loss) for loss in losses.values()
    ]
    return statistics.fmean(reached) - min(reached)


RAMP_PEAK = 5e-2
"""Where the ramp of :class:`LargestStableRate` ends."""


@dataclass(kw_only=True)
class LargestStableRate:
    """Finds the largest stable learning rate, in one run whose rate grows at every step.

    The protocol is that of KEEL (arXiv 2601.19895): the learning rate grows linearly from 0 to 5e-2
    (``RAMP_PEAK``), and the one in force before the run diverges is recorded. The paper names what
    counts as divergence; the figures below are ours. All are judged on the running median of the
    loss, so that no single batch decides:

    * **not finite**: the loss is NaN or infinite.
    * **an unrecovered spike**: the median stays more than ``margin`` above its own best for
      ``recovery`` steps. The run diverged where it left.
    * **stagnation**, or convergence too slow to count: in ``patience`` steps, those of spikes not
      counted, the median has not fallen by ``progress``. The run diverged where it last had. A
      task that is learned, or that has a plateau of its own, stagnates at any rate: let the ramp
      end before.

    Example::

        judge = LargestStableRate()
        for step in range(steps):
            rate = RAMP_PEAK * (step + 1) / steps
            if judge.update(rate, train(rate)):
                break
        print(judge.rate, judge.reason)
    """

    window: int = 11
    """Number of steps of the running median."""
    margin: float = 0.1
    """Nats that the median must rise by to count as a spike."""
    recovery: int = 50
    """Steps in which a spike may recover."""
    progress: float = 0.05
    """Nats that the median must fall by. A run that is stuck at the unigram entropy falls by less,
    through the noise of its batches alone."""
    patience: int = 50
    """Steps in which it must."""

    step: int = field(default=0, init=False)
    """How many steps were seen."""
    rate: float = field(default=0.0, init=False)
    """The largest stable learning rate so far; 0 where the run diverged at its first step."""
    diverged_at: int | None = field(default=None, init=False)
    """Index from 0 of the first step of the divergence; None where there is none."""
    reason: str | None = field(default=None, init=False)
    """What the divergence is, in plain language."""

    def __post_init__(self) -> None:
        problems = [
            f"`{name}` is {value}"
            for name in ("window", "recovery", "patience")
            if (value := getattr(self, name)) < 1
        ]
        if problems:
            raise ValueError(f"They must be at least 1, but {', '.join(problems)}.")
        self._losses: deque[float] = deque(maxlen=self.window)
        self._best = self._mark = math.inf
        self._idle = 0
        # Step and rate of the last step at which all was well, and at which progress was made.
        self._well = self._progressed = (-1, 0.0)

    def update(self, learning_rate: float, loss: float) -> bool:
        """Take the next step of the ramp, and say whether the run has diverged.

        Args:
            learning_rate: The rate of the update that comes of this loss.
            loss: Training loss of the step, in nats per token.

        Returns:
            True from the step on at which divergence is certain; the run can be stopped.
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
