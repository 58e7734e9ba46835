import math
from typing import Any

import pytest
import sacrebleu

from admin_init.translation.scoring import score, score_tokenised

HYPOTHESES = ["Ein Mann schläft auf dem Sofa .", "Zwei Hunde laufen schnell."]
REFERENCES = ["Ein Mann schläft auf einem Sofa.", "Zwei Hunde laufen durch den Schnee."]


def test_it_is_sacrebleus_own_number() -> None:
    theirs = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    ours = score(HYPOTHESES, REFERENCES)
    assert ours.score == theirs.score
    assert 0 < ours.score < 100
    assert score(REFERENCES, REFERENCES).score == pytest.approx(100)


def test_hypotheses_and_references_are_not_swapped() -> None:
    # All n-grams are right, which leaves the brevity penalty: 4 tokens where there should be 7.
    bleu = score(["Ein Mann schläft auf"], REFERENCES[:1])
    assert bleu.score == pytest.approx(100 * math.exp(1 - 7 / 4))


def test_the_signature_goes_with_it() -> None:
    bleu = score(HYPOTHESES, REFERENCES)
    for part in ("nrefs:1", "case:mixed", "tok:13a", f"version:{sacrebleu.__version__}"):
        assert part in bleu.signature
    assert str(bleu) == f"sacreBLEU {bleu.score:.2f} ({bleu.signature})"


def test_a_language_gets_its_own_tokenizer() -> None:
    chinese = ["一个男人在睡觉", "两只狗在跑"]
    bleu = score(chinese, chinese, "zh")
    assert "tok:zh" in bleu.signature
    assert bleu.score == pytest.approx(100)


SENTENCE = ["ein", "al@@", "ter", "Hund", "läuft", "schnell", "."]


def test_tokenised_bleu_by_hand() -> None:
    # ein alter Hund läuft [davon] | ein alter Hund läuft schnell . : 4, 3, 2 and 1 n-grams right.
    bleu = score_tokenised([[*SENTENCE[:5], "da@@", "von"]], [SENTENCE])
    brevity = math.exp(1 - 6 / 5)
    precisions = 4 / 5 * 3 / 4 * 2 / 3 * 1 / 2
    assert bleu.score == pytest.approx(100 * brevity * precisions**0.25)
    assert bleu.line == (
        f"BLEU4 = {bleu.score:.2f}, 80.0/75.0/66.7/50.0 (BP=0.819, ratio=0.833, syslen=5, reflen=6)"
    )
    assert str(bleu) == f"tokenized BLEU, comparable only with fairseq-generate's: {bleu.line}"


def test_tokenised_bleu_is_not_smoothed() -> None:
    # No four words in a row are right.
    assert score_tokenised([["a", "b", "c", "x", "d"]], [["a", "b", "c", "d", "e"]]).score == 0


def test_an_unknown_word_is_never_right() -> None:
    unknown = ["a", "b", "<unk>", "c", "d"]
    assert "80.0/50.0/0.0/0.0" in score_tokenised([unknown], [unknown]).line


def test_an_empty_sentence_is_one_token() -> None:
    line = score_tokenised([SENTENCE, []], [SENTENCE, ["a", "b"]]).line
    assert line.endswith("(BP=0.867, ratio=0.875, syslen=7, reflen=8)")


@pytest.mark.parametrize(
    "pieces", [SENTENCE, ["▁ein", "▁al", "ter", "▁Hund", "▁läuft", "▁schnell", "▁."]]
)
def test_words_are_joined_of_either_kind_of_subwords(pieces: list[str]) -> None:
    assert "syslen=6, reflen=6" in score_tokenised([pieces], [pieces]).line


def test_a_sentence_of_subwords_may_look_like_the_other_kind() -> None:
    """What kind it is the corpus decides."""
    sentences = [["▁ein", "▁a", "@@", "b"], ["▁", "a"], ["▁b"]]
    assert "syslen=4, reflen=4" in score_tokenised(sentences, sentences).line
    sentences = [["▁", "a@@", "b"], ["b"], ["c"]]
    assert "syslen=4, reflen=4" in score_tokenised(sentences, sentences).line


@pytest.mark.parametrize("metric", [score, score_tokenised])
@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_numbers_of_sentences_must_agree(
    metric: Any, hypotheses: list[str], references: list[str]
) -> None:
    with pytest.raises(ValueError, match=rf"{len(hypotheses)} hyp\w+ and {len(references)} ref"):
        metric(hypotheses, references)
