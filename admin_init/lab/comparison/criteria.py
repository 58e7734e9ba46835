"""Whether a run trained or failed, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Verdict(NamedTuple):
    """Outcome of a run."""

    trained: bool
    """False where it failed."""
    reason: str
    """In plain language, with the figures that decided."""


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """What counts as failed; all in nats per target token, on validation data in eval mode.

    The smoothed training loss is no criterion: a model that has learned nothing but the
    frequencies of tokens can show a low one.
    """

    entropy_share: float = 0.8
    """The share of the target's unigram entropy that the NLL must stay below. 18-18-layer Post-LN
    runs that translate nothing (BLEU below 1) ended at 0.88 and more, since word order alone
    saves some (on fairseq's Transformer, of three one at 0.78); Pre-LN and Admin at 0.75 and
    less."""

    source_gain: float = 0.1
    """What a translation model must lose, at the least, when it gets another sentence's source."""

    relapse: float = 0.5
    """How far above its own best it may end."""

    def judge(self, nlls: list[float], source_gain: float, entropy: float) -> Verdict:
        """Judge a run.

        Args:
            nlls: Validation NLL over the course of the run, the final one last.
            source_gain: Final rise of the NLL when the sources are shuffled.
            entropy: Unigram entropy of the target side, which a model reaches that has learned the
                frequencies of tokens and nothing else.
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
                f"so far it does not read its source: with shuffled sources its NLL of "
                f"{final:.2f} rises by {source_gain:.3f}, less than {self.source_gain}",
            )
        if final > best + self.relapse:
            return Verdict(
                False, f"it diverged: its NLL went from {best:.2f} back up to {final:.2f}"
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
