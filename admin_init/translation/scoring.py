"""sacreBLEU and tokenized BLEU; the two scores are not comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from admin_init.errors import import_extra

UNKNOWN = "<unk>"
"""The token that replaces unknown tokens."""


class Bleu(NamedTuple):
    """sacreBLEU score of detokenized text, which sacreBLEU tokenizes itself."""

    score: float
    """BLEU, from 0 to 100."""
    signature: str
    """sacreBLEU's signature, which says how the score was computed. Report it with the score."""

    def __str__(self) -> str:
        return f"sacreBLEU {self.score:.2f} ({self.signature})"


class TokenisedBleu(NamedTuple):
    """BLEU of the words of a prepared corpus, as ``fairseq-generate`` computes it."""

    score: float
    """BLEU, from 0 to 100."""
    line: str
    """Line in ``fairseq-generate``'s format: ``BLEU4 = 27.80, 58.4/33.2/20.9/13.6 (BP=1.000,
    ...)``."""

    def __str__(self) -> str:
        return f"tokenized BLEU, comparable only with fairseq-generate's: {self.line}"


def score(hypotheses: Sequence[str], references: Sequence[str], target_lang: str = "") -> Bleu:
    """Compute sacreBLEU on detokenized text (Post 2018).

    Args:
        hypotheses: Translations, one per sentence.
        references: References, in the same order.
        target_lang: Target language. Languages such as ``zh`` and ``ja`` have tokenizers of their
            own.

    Returns:
        The score and its signature.

    Raises:
        ValueError: The numbers of hypotheses and references differ or are 0.

    Examples:
        >>> bleu = score(["The cat sat on a mat."], ["The cat sat on the mat."], "en")
        >>> round(bleu.score, 1)
        48.9
    """
    _check_numbers(hypotheses, references)
    metric = import_extra("translation", "sacrebleu").BLEU(trg_lang=target_lang)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(result.score, str(metric.get_signature()))


def score_tokenised(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> TokenisedBleu:
    """Compute tokenized BLEU as ``fairseq-generate --remove-bpe`` does (fairseq 0.12.2).

    Subwords are joined to words first. There is no smoothing, an unknown word never counts as
    right, and an empty sentence counts as the single token ``</s>``.

    Args:
        hypotheses: Subwords of each translation.
        references: Subwords of each target sentence in the data-bin, in the same order.

    Returns:
        The score and its line.

    Raises:
        ValueError: The numbers of hypotheses and references differ or are 0.

    Examples:
        >>> pieces = [["a", "new@@", "er", "house", "."]]
        >>> print(score_tokenised(pieces, pieces).line)
        BLEU4 = 100.00, 100.0/100.0/100.0/100.0 (BP=1.000, ratio=1.000, syslen=4, reflen=4)
    """
    _check_numbers(hypotheses, references)
    # SentencePiece marks the start of a word, which plain words never do.
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
