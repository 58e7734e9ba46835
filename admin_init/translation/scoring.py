"""BLEU, with the signature that makes it reproducible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU


class Bleu(NamedTuple):
    """A corpus BLEU score."""

    score: float
    """From 0 to 100."""
    signature: str
    """sacreBLEU's: how it was computed, to be quoted beside it."""

    def __str__(self) -> str:
        return f"BLEU {self.score:.2f} ({self.signature})"


def score(hypotheses: Sequence[str], references: Sequence[str], target_lang: str = "") -> Bleu:
    """Compute sacreBLEU on detokenised text (Post, 2018).

    Args:
        hypotheses: Translations, one a sentence.
        references: Their references, in the same order.
        target_lang: Picks the tokenizer where a language needs one of its own, as ``zh`` and
            ``ja``.

    Raises:
        ValueError: The numbers of sentences differ, or are 0.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            "There must be one hypothesis for each reference, and at least one, but there are "
            f"{len(hypotheses)} hypotheses and {len(references)} references."
        )
    metric = BLEU(trg_lang=target_lang)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(result.score, str(metric.get_signature()))
