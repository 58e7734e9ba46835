"""What the settings of a preparation do to what is written."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from admin_init.errors import CorpusError, MissingExtraError
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.data.databin import IndexedDataset
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.preparation.manifest import Manifest
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.subwords.sentencepiece import SentencePiece

MOSES: dict[str, Any] = {"subwords": "subword-nmt", "merges": 12}
WORDS = [("Haus", "House"), ("Hund", "Dog"), ("Baum", "Tree"), ("Mann", "Man"), ("und", "and")]
# Number i, counted from 1, has i words.
NUMBERED = [
    tuple(" ".join(WORDS[j * i % 5][side] for j in range(i)) for side in (0, 1))
    for i in range(1, 31)
]


def make_corpus(**splits: list[tuple[str, str]]) -> ParallelCorpus:
    return ParallelCorpus(
        source_lang="de", target_lang="en", splits={"train": NUMBERED, "test": NUMBERED, **splits}
    )


def spelled(folder: Path, split: str) -> list[str]:
    """The target text that the ids stand for."""
    data = TranslationDataModule(folder, "de", "en")
    ids = IndexedDataset(folder / f"{split}.de-en.en")
    return [data.tokenizer.decode(data.target_dictionary.decode(sentence)) for sentence in ids]


def numbers(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@pytest.mark.parametrize("subwords", [MOSES, {"vocabulary_size": 90}])
@pytest.mark.parametrize("shard_size", [7, 1000])
def test_validation_pairs_are_drawn_after_cleaning_by_words(
    tmp_path: Path, subwords: dict[str, Any], shard_size: int
) -> None:
    settings = {"length_unit": "word", "min_length": 4, "max_length": 25, "valid_every": 5}
    manifest = prepare(
        make_corpus(), tmp_path / "bin", shard_size=shard_size, **settings, **subwords
    )
    drawn = [8, 13, 18, 23]  # every fifth of 4, 5, ... 25
    assert numbers(spelled(tmp_path / "bin", "valid")) == drawn
    kept = [i for i in range(4, 26) if i not in drawn]
    assert numbers(spelled(tmp_path / "bin", "train")) == kept
    assert numbers(spelled(tmp_path / "bin", "test")) == list(range(1, 31))
    references = TranslationDataModule(tmp_path / "bin", "de", "en").references("valid")
    assert references == [NUMBERED[i - 1][1] for i in drawn]
    train, valid = manifest.splits["train"], manifest.splits["valid"]
    assert (train.read, train.kept, train.drawn) == (30, 18, 4)
    assert (valid.read, valid.kept) == (4, 4)
    assert train.dropped["shorter than 4 words"].lines == [1, 2, 3]
    assert train.dropped["longer than 25 words"].lines == [26, 27, 28, 29, 30]
    assert "drawn for valid: 4" in str(manifest)


def test_validation_pairs_are_drawn_before_cleaning_by_subwords(tmp_path: Path) -> None:
    settings = {"max_length": 40, "valid_every": 7}  # and words have two subwords or so
    manifest = prepare(make_corpus(), tmp_path / "bin", shard_size=4, **MOSES, **settings)
    train, valid = manifest.splits["train"], manifest.splits["valid"]
    sizes = [
        IndexedDataset(tmp_path / "bin" / f"{split}.de-en.{lang}").sizes - 1
        for split in ("train", "valid")
        for lang in ("de", "en")
    ]
    assert all(size.max() <= 40 for size in sizes)
    # Every seventh line, of which the longer ones are dropped by their lines in the corpus.
    assert numbers(spelled(tmp_path / "bin", "valid"))[0] == 7
    dropped = [line for found in valid.dropped.values() for line in found.lines]
    assert dropped
    assert numbers(spelled(tmp_path / "bin", "valid")) + dropped == [7, 14, 21, 28]
    assert (train.read, train.drawn, valid.read) == (30, 4, 4)
    assert train.kept + train.drawn + train.dropped["longer than 40 subwords"].count == 30


@pytest.mark.parametrize("subwords", [MOSES, {"vocabulary_size": 60}])
def test_validation_pairs_are_not_learned_from(tmp_path: Path, subwords: dict[str, Any]) -> None:
    drawn = ("Zebra " * 40, "zebra " * 40)
    prepare(make_corpus(train=[*NUMBERED, drawn]), tmp_path / "bin", valid_every=31, **subwords)
    prepare(make_corpus(), tmp_path / "without", **subwords)
    for name in ("dict.en.txt", "bpecodes" if subwords is MOSES else "sentencepiece.bpe.model"):
        assert (tmp_path / "bin" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert len(IndexedDataset(tmp_path / "bin" / "valid.de-en.en")) == 1


def test_validation_pairs_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="`valid_every` makes a split 'valid'"):
        prepare(make_corpus(valid=NUMBERED), tmp_path / "bin", valid_every=5)


@pytest.mark.parametrize("subwords", [MOSES, {"vocabulary_size": 90}])
def test_lower_case_reaches_the_references_too(tmp_path: Path, subwords: dict[str, Any]) -> None:
    """So that what such a model writes is compared with what it can write."""
    prepare(make_corpus(), tmp_path / "bin", lowercase=True, **subwords)
    lower = [target.lower() for _, target in NUMBERED]
    assert spelled(tmp_path / "bin", "train") == lower
    assert TranslationDataModule(tmp_path / "bin", "de", "en").references("test") == lower


def test_only_a_test_split_is_not_normalized(tmp_path: Path) -> None:
    """As in the published recipes; its references are the raw text."""
    pair = ("ein „Haus“", "a “house” isn\u2019t")
    corpus = make_corpus(train=[*NUMBERED, pair], valid=[pair], test=[pair])
    prepare(corpus, tmp_path / "bin", normalize=True, **MOSES)
    assert spelled(tmp_path / "bin", "train")[-1] == 'a "house" isn\'t'
    assert spelled(tmp_path / "bin", "valid") == ['a "house" isn\'t']
    for split in ("valid", "test"):
        references = TranslationDataModule(tmp_path / "bin", "de", "en").references(split)
        assert references == ["a “house” isn\u2019t"]
    (text,) = spelled(tmp_path / "bin", "test")
    assert "house" in text
    assert '"' not in text


@pytest.mark.parametrize(
    ("settings", "learned_from", "report"),
    [
        ({**MOSES, "sample_words": 7}, {"words": 7, "of": 10}, "7 of 10 words"),
        (
            {"vocabulary_size": 90, "sample_sentences": 21},
            {"sentences": 20, "of": 60},
            "20 of 60 sentences",
        ),
    ],
)
def test_what_subwords_are_learned_from_is_bounded(
    tmp_path: Path, settings: dict[str, Any], learned_from: dict[str, int], report: str
) -> None:
    manifest = prepare(make_corpus(), tmp_path / "bin", **settings)
    assert manifest.learned_from == learned_from
    assert Manifest.load(tmp_path / "bin").learned_from == learned_from
    assert f"subwords learned from {report}" in str(manifest)


def test_a_sample_is_spread_over_the_training_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, seen = SentencePiece.learn, []

    def watched(sentences: Iterable[str], size: int) -> SentencePiece:
        seen.extend(sentences)
        return learn(seen, size)

    monkeypatch.setattr(SentencePiece, "learn", watched)
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90, sample_sentences=10, shard_size=8)
    assert seen == [side for i in (5, 11, 17, 23, 29) for side in NUMBERED[i]]


@pytest.mark.parametrize(
    ("module", "package"), [("sacremoses", "sacremoses"), ("subword_nmt", "subword-nmt")]
)
def test_what_is_not_installed_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        prepare(make_corpus(), tmp_path / "bin", **MOSES)
    message = f"{package} is not installed. Run `pip install 'admin-init[wmt]'`."
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["workers", "shard_size"])
def test_counts_must_be_positive(tmp_path: Path, name: str) -> None:
    counts: dict[str, Any] = {name: 0}
    with pytest.raises(CorpusError, match=f"`{name}` must be at least 1, but is 0"):
        prepare(make_corpus(), tmp_path / "bin", **counts)
