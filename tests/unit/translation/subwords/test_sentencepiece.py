from pathlib import Path

import pytest
import sentencepiece

from admin_init.errors import CorpusError
from admin_init.translation.subwords.sentencepiece import SentencePiece

TEXT = [
    "The old man sees the young woman.",
    "Der alte Mann sieht die junge Frau.",
    "The women see an older man, too.",
    "Die Frauen sehen auch einen älteren Mann.",
] * 5


@pytest.fixture(scope="module")
def subwords() -> SentencePiece:
    return SentencePiece.learn(TEXT, 80)


def test_joining_gives_the_text_back(subwords: SentencePiece) -> None:
    for text in [*TEXT, "A woman, sehr alt."]:
        assert subwords.join(subwords.split(text)) == text


def test_has_merged_within_the_limit(subwords: SentencePiece, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(subwords.model)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model"))
    assert model.get_piece_size() <= 80
    pieces = subwords.split(TEXT[0])
    assert len(pieces) < len(TEXT[0])
    assert pieces == model.encode(TEXT[0], out_type=str)
    # No byte fallback: a character that was never seen stays itself, and becomes <unk>.
    assert "ж" in subwords.split("ж")


def test_training_is_deterministic_and_the_file_is_the_model(
    subwords: SentencePiece, tmp_path: Path
) -> None:
    (tmp_path / "one").write_bytes(subwords.model)
    assert SentencePiece.learn(iter(TEXT), 80).model == subwords.model
    assert SentencePiece.load(tmp_path / "one").split(TEXT[1]) == subwords.split(TEXT[1])


def test_a_small_corpus_gives_fewer_subwords_than_asked_for() -> None:
    subwords = SentencePiece.learn(["a b", "b a"], 4000)
    assert subwords.join(subwords.split("b b a")) == "b b a"


@pytest.mark.parametrize(("text", "size"), [(TEXT, 10), ([], 100)])
def test_what_cannot_be_learned_is_refused(text: list[str], size: int) -> None:
    with pytest.raises(CorpusError, match=f"cannot learn {size} subwords"):
        SentencePiece.learn(text, size)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.model").write_bytes(b"junk")
    for name in ("junk.model", "nowhere.model"):
        with pytest.raises(CorpusError, match=name):
            SentencePiece.load(tmp_path / name)
