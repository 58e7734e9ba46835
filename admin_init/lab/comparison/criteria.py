"""Criteria that decide whether a run trained or failed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Verdict(NamedTuple):
    """Whether a run trained, and why."""

    trained: bool
    """False if the run failed."""
    reason: str
    """The reason in plain language, with the figures that decided."""


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """Criteria for a failed run, measured on validation data in eval mode.

    The label-smoothed training loss is not used: it can be low even if the model has learned
    nothing but the token frequencies.
    """

    entropy_share: float = 0.8
    """A run fails if its final NLL is at least this fraction of the target's unigram entropy. In
    our runs at 18-18 layers, Post-LN models that did not translate (BLEU below 1) ended at 0.88 or
    more, except one of three with fairseq's Transformer, at 0.78; learning the word order alone
    lowers the NLL a little. Pre-LN and Admin models ended at 0.75 or less."""

    source_gain: float = 0.1
    """A run fails if its NLL rises by less than this when the source sentences are shuffled, in
    nats per target token."""

    relapse: float = 0.5
    """A run fails if its final NLL exceeds its best NLL by more than this, in nats per target
    token."""

    def judge(self, nlls: list[float], source_gain: float, entropy: float) -> Verdict:
        """Judge a run.

        Args:
            nlls: Validation NLLs of the run, the final one last.
            source_gain: Increase of the final NLL when the sources are shuffled.
            entropy: Unigram entropy of the target side: the NLL of a model that has learned nothing
                but the token frequencies.
        """
        final, best = nlls[-1], min(nlls, key=lambda nll: math.inf if math.isnan(nll) else nll)
        if not math.isfinite(final):
            return Verdict(False, f"its validation NLL is {final}")
        if final >= self.entropy_share * entropy:
            return Verdict(
                False,
                f"its NLL of {final:.2f} is not below {self.entropy_share:.0%} of the target's "
                f"unigram entropy {entropy:.2f}",
            )
        if not source_gain >= self.source_gain:
            return Verdict(
                False,
                f"it does not use its source yet: with shuffled sources its NLL of {final:.2f} "
                f"rises by {source_gain:.3f}, less than {self.source_gain}",
            )
        if final > best + self.relapse:
            return Verdict(
                False, f"it diverged: its NLL rose from {best:.2f} at best to {final:.2f}"
            )
        return Verdict(
            True,
            f"its NLL of {final:.2f} is below the unigram entropy {entropy:.2f} and rises by "
            f"{source_gain:.2f} with shuffled sources",
        )


def unigram_entropy(tokens: npt.NDArray[np.integer]) -> float:
    """Compute the entropy of token frequencies in nats, from the ids of a text."""
    counts = np.bincount(tokens.ravel())
    frequencies = counts[counts > 0] / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())
