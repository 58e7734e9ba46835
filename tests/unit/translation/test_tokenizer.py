from pathlib import Path

import pytest
import sentencepiece

from admin_init.translation.errors import CorpusError
from admin_init.translation.tokenizer import Tokenizer

TEXT = [
    "The old man sees the young woman.",
    "Der alte Mann sieht die junge Frau.",
    "The women see an older man, too.",
    "Die Frauen sehen auch einen älteren Mann.",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, 80)


def test_decoding_gives_the_text_back(tokenizer: Tokenizer) -> None:
    for text in [*TEXT, "A woman, sehr alt."]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_has_merged_within_the_limit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model"))
    assert model.get_piece_size() <= 80
    pieces = tokenizer.encode(TEXT[0])
    assert len(pieces) < len(TEXT[0])
    assert pieces == model.encode(TEXT[0], out_type=str)
    # No byte fallback: a character that was never seen stays itself, and becomes <unk>.
    assert "ж" in tokenizer.encode("ж")


def test_training_is_deterministic_and_the_file_is_the_model(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "one")
    Tokenizer.train(iter(TEXT), 80).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert Tokenizer.load(tmp_path / "one").encode(TEXT[1]) == tokenizer.encode(TEXT[1])


def test_a_small_corpus_gives_fewer_subwords_than_asked_for() -> None:
    tokenizer = Tokenizer.train(["a b", "b a"], 4000)
    assert tokenizer.decode(tokenizer.encode("b b a")) == "b b a"


@pytest.mark.parametrize(("text", "size"), [(TEXT, 10), ([], 100)])
def test_what_cannot_be_learned_is_refused(text: list[str], size: int) -> None:
    with pytest.raises(CorpusError, match=f"cannot learn {size} subwords"):
        Tokenizer.train(text, size)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.model").write_bytes(b"junk")
    for name in ("junk.model", "nowhere.model"):
        with pytest.raises(CorpusError, match=name):
            Tokenizer.load(tmp_path / name)
