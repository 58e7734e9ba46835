"""sacreBLEU and tokenized BLEU; the two scores are not comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from admin_init.errors import import_extra

UNKNOWN = "<unk>"
"""The piece that stands for whatever is in no dictionary."""


class Bleu(NamedTuple):
    """sacreBLEU: of plain text, which it tokenizes itself."""

    score: float
    """From 0 to 100."""
    signature: str
    """sacreBLEU's: how it was computed, to be quoted beside it."""

    def __str__(self) -> str:
        return f"sacreBLEU {self.score:.2f} ({self.signature})"


class TokenisedBleu(NamedTuple):
    """BLEU of the words that a corpus was prepared with, as ``fairseq-generate`` computes it."""

    score: float
    """From 0 to 100."""
    line: str
    """What ``fairseq-generate`` prints: ``BLEU4 = 27.80, 58.4/33.2/20.9/13.6 (BP=1.000, ...)``."""

    def __str__(self) -> str:
        return f"tokenised BLEU, comparable with fairseq-generate's only: {self.line}"


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
    _check_numbers(hypotheses, references)
    metric = import_extra("translation", "sacrebleu").BLEU(trg_lang=target_lang)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(result.score, str(metric.get_signature()))


def score_tokenised(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> TokenisedBleu:
    """Compute tokenised BLEU as ``fairseq-generate --remove-bpe`` does (fairseq 0.12.2).

    The words are those that the subwords join to. There is no smoothing, an unknown word is never
    right, and an empty sentence counts as the one token ``</s>``.

    Args:
        hypotheses: The subwords of each translation.
        references: The subwords of each target sentence of the data-bin, in the same order.

    Raises:
        ValueError: The numbers of sentences differ, or are 0.
    """
    _check_numbers(hypotheses, references)
    # The only mark of a corpus's subwords that no sentence of words would show.
    sentencepiece = 2 * sum(r[0].startswith("▁") for r in references if r) > len(references)
    escaped = [[f"<{UNKNOWN}>" if p == UNKNOWN else p for p in pieces] for pieces in references]
    metric = import_extra("translation", "sacrebleu").BLEU(
        tokenize="none", smooth_method="none", force=True
    )
    bleu = metric.corpus_score(
        [_words(pieces, sentencepiece) for pieces in hypotheses],
        [[_words(pieces, sentencepiece) for pieces in escaped]],
    )
    precisions = "/".join(f"{precision:.1f}" for precision in bleu.precisions)
    return TokenisedBleu(
        bleu.score,
        f"BLEU4 = {bleu.score:.2f}, {precisions} (BP={bleu.bp:.3f}, "
        f"ratio={bleu.sys_len / bleu.ref_len:.3f}, syslen={bleu.sys_len}, reflen={bleu.ref_len})",
    )


def _words(pieces: Sequence[str], sentencepiece: bool) -> str:
    if sentencepiece:
        joined = "".join(pieces).replace("▁", " ")
    else:
        joined = f"{' '.join(pieces)} ".replace("@@ ", "")
    return " ".join(joined.split()) or "</s>"


def _check_numbers(hypotheses: Sequence[object], references: Sequence[object]) -> None:
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            "There must be one hypothesis for each reference, and at least one, but there are "
            f"{len(hypotheses)} hypotheses and {len(references)} references."
        )
