import math

import pytest
import sacrebleu

from admin_init.translation.scoring import score

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
    assert str(bleu) == f"BLEU {bleu.score:.2f} ({bleu.signature})"


def test_a_language_gets_its_own_tokenizer() -> None:
    chinese = ["一个男人在睡觉", "两只狗在跑"]
    bleu = score(chinese, chinese, "zh")
    assert "tok:zh" in bleu.signature
    assert bleu.score == pytest.approx(100)


@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_numbers_of_sentences_must_agree(hypotheses: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"{len(hypotheses)} hyp\w+ and {len(references)} ref"):
        score(hypotheses, references)
