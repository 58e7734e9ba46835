import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from admin_init.errors import CorpusError
from admin_init.translation.corpora.parallel import ParallelCorpus, ParallelFiles, parallel_files
from admin_init.translation.data.databin import IndexedDataset
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.manifest import Manifest
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.subwords.sentencepiece import SentencePiece
from admin_init.translation.subwords.tokenizer import load_tokenizer

WORDS = {"the": "das", "old": "alte", "house": "Haus", "sees": "sieht", "a": "ein", "dog": "Hund"}


def make_pairs(number: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    sources = [rng.choices(list(WORDS), k=rng.randint(1, 9)) for _ in range(number)]
    return [(" ".join(s), " ".join(WORDS[w] for w in s) + " .") for s in sources]


def make_corpus(**changed: Any) -> ParallelCorpus:
    splits = {"train": make_pairs(80, 0), "valid": make_pairs(5, 1), "test": make_pairs(5, 2)}
    return ParallelCorpus(source_lang="en", target_lang="de", splits={**splits, **changed})


def texts(folder: Path, split: str, lang: str) -> list[str]:
    """The plain text that the ids of a data-bin stand for."""
    dictionary = Dictionary.load(folder / f"dict.{lang}.txt")
    tokenizer = load_tokenizer(folder)
    dataset = IndexedDataset(folder / f"{split}.en-de.{lang}")
    assert all(sentence[-1] == 2 for sentence in dataset)
    return [tokenizer.decode(dictionary.decode(sentence)) for sentence in dataset]


def test_what_is_written_spells_the_corpus(tmp_path: Path) -> None:
    corpus = make_corpus()
    manifest = prepare(corpus, tmp_path / "bin", vocabulary_size=60)
    for split, pairs in corpus.splits.items():
        assert texts(tmp_path / "bin", split, "en") == [source for source, _ in pairs]
        assert texts(tmp_path / "bin", split, "de") == [target for _, target in pairs]
    names = {path.name for path in (tmp_path / "bin").iterdir()}
    assert names == {
        *(
            f"{split}.en-de.{lang}.{ending}"
            for split in corpus.splits
            for lang in ("en", "de")
            for ending in ("bin", "idx")
        ),
        *("dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model", "prepare.json"),
        *("valid.en-de.de.txt", "test.en-de.de.txt"),
    }
    assert manifest.splits["train"].kept == 80
    assert manifest.splits["train"].dropped == {}
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_the_dictionary_is_joined_and_counts_the_training_data(tmp_path: Path) -> None:
    corpus = make_corpus()
    manifest = prepare(corpus, tmp_path / "bin", vocabulary_size=60)
    content = (tmp_path / "bin" / "dict.en.txt").read_bytes()
    assert content == (tmp_path / "bin" / "dict.de.txt").read_bytes()
    counts = [int(line.rsplit(" ", 1)[1]) for line in content.decode().splitlines()]
    assert counts == sorted(counts, reverse=True)
    split = manifest.splits["train"]
    assert sum(counts) == split.source_tokens + split.target_tokens - 2 * split.kept
    assert manifest.dictionary_size == len(counts) + 4
    assert manifest.dictionary_size % 8 == 0


def test_references_are_the_raw_text(tmp_path: Path) -> None:
    pairs = [("a dog", "ein  Hund\x85mit\u2028Haus"), ("", ""), ("the", "½ Haus")]
    prepare(make_corpus(test=pairs), tmp_path / "bin", vocabulary_size=60)
    lines = (tmp_path / "bin" / "test.en-de.de.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["ein  Hund mit Haus", "", "½ Haus"]
    score = sacrebleu.corpus_bleu(texts(tmp_path / "bin", "valid", "de"), [[*"xxxxx"]])
    assert score.ref_len == 5


def test_training_pairs_are_cleaned_and_the_others_kept_whole(tmp_path: Path) -> None:
    pairs = make_pairs(60, 0)
    pairs[3] = ("", "ein Hund")
    pairs[7] = ("a dog", " \t")
    pairs[11] = ("house " * 300, "Haus")
    pairs[12] = ("a", "a a a a a a a a a")
    test = [("", "Hund"), ("dog " * 300, "Hund")]
    corpus = make_corpus(train=pairs, test=test)
    manifest = prepare(corpus, tmp_path / "bin", vocabulary_size=60, max_length=40, max_ratio=6.0)
    train = manifest.splits["train"]
    assert (train.read, train.kept) == (60, 56)
    dropped = {why: (found.count, found.lines) for why, found in train.dropped.items()}
    assert dropped == {
        "empty": (2, [4, 8]),
        "longer than 40 subwords": (1, [12]),
        "longer than 6.0 times its translation": (1, [13]),
    }
    kept = [pair for i, pair in enumerate(pairs) if i not in (3, 7, 11, 12)]
    assert texts(tmp_path / "bin", "train", "en") == [source for source, _ in kept]
    assert len(IndexedDataset(tmp_path / "bin" / "test.en-de.de")) == 2
    report = str(manifest)
    assert "train: 60 pairs read, 56 kept" in report
    assert "dropped as empty: 2 (lines 4, 8)" in report


def test_the_report_names_files_and_the_first_lines(tmp_path: Path) -> None:
    source = "".join("\n" if i % 2 else f"{'house dog'[: i % 9]}x\n" for i in range(60))
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(source.encode()))
    (tmp_path / "train.de").write_text("Haus\n" * 60)
    corpus = parallel_files(tmp_path, "en", "de", valid=None, test=None)
    manifest = prepare(corpus, tmp_path / "bin", vocabulary_size=30)
    assert f"from {tmp_path}/train.en.gz and {tmp_path}/train.de, 30 kept" in str(manifest)
    assert "empty: 30 (lines 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, ...)" in str(manifest)


def test_the_same_again_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(make_corpus(), tmp_path / "bin", vocabulary_size=60)
    monkeypatch.setattr(SentencePiece, "learn", None)
    again = prepare(make_corpus(), tmp_path / "bin", vocabulary_size=60, workers=2, shard_size=7)
    assert again == first == Manifest.load(tmp_path / "bin")


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first = prepare(make_corpus(), tmp_path / "one", vocabulary_size=60)
    second = prepare(make_corpus(), tmp_path / "two", vocabulary_size=60)
    assert first == second
    assert json.loads((tmp_path / "one" / "prepare.json").read_text())["outputs"] == first.outputs


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        ({}, {"max_length": 8}, "max_length is 8, but was 250"),
        ({"test": [("a", "ein")]}, {}, "sentences of test have changed"),
        ({"test2": [("a", "ein")]}, {}, "sentences of test2 have changed"),
    ],
)
def test_other_settings_or_sentences_need_overwrite(
    tmp_path: Path, changed: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=60)
    before = (tmp_path / "bin" / "prepare.json").read_bytes()
    with pytest.raises(CorpusError, match=f"prepared differently: .*{message}.*overwrite=True"):
        prepare(make_corpus(**changed), tmp_path / "bin", vocabulary_size=60, **settings)
    assert (tmp_path / "bin" / "prepare.json").read_bytes() == before
    manifest = prepare(
        make_corpus(**changed), tmp_path / "bin", vocabulary_size=60, overwrite=True, **settings
    )
    assert Manifest.load(tmp_path / "bin") == manifest
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_a_damaged_folder_is_not_reused(tmp_path: Path) -> None:
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=60)
    path = tmp_path / "bin" / "train.en-de.en.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorpusError, match=r"train\.en-de\.en\.bin is missing or damaged"):
        prepare(make_corpus(), tmp_path / "bin", vocabulary_size=60)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(CorpusError, match=r"is not a prepared corpus: its prepare\.json"):
        prepare(make_corpus(), tmp_path, vocabulary_size=60, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (lambda: {"train": []}, "train: the split has no sentence pairs"),
        (lambda: {"test": []}, "test: the split has no sentence pairs"),
        (lambda: {"train": [("", "")]}, "cannot learn"),
        (lambda: {"train": [("a " * 300, "ein " * 300)]}, "train: none of its 1 pairs was kept"),
    ],
)
@pytest.mark.parametrize("subwords", ["sentencepiece", "subword-nmt"])
def test_what_gives_no_data_is_refused(
    tmp_path: Path, subwords: str, splits: Callable[[], dict[str, Any]], message: str
) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        prepare(make_corpus(**splits()), tmp_path / "bin", vocabulary_size=60, subwords=subwords)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_corpus_is_read_once(tmp_path: Path) -> None:
    splits = {name: iter(pairs) for name, pairs in make_corpus().splits.items()}
    manifest = prepare(make_corpus(**splits), tmp_path / "once", vocabulary_size=60, shard_size=9)
    assert manifest == prepare(make_corpus(), tmp_path / "bin", vocabulary_size=60)


def test_a_corpus_without_training_data_is_refused(tmp_path: Path) -> None:
    corpus = ParallelCorpus(source_lang="en", target_lang="de", splits={"test": make_pairs(3, 0)})
    with pytest.raises(CorpusError, match=r"no split 'train', only \['test'\]"):
        prepare(corpus, tmp_path / "bin")


def test_a_broken_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.en").write_text("one\ntwo\n")
    (tmp_path / "train.de").write_text("eins\n")
    files = ParallelFiles(tmp_path / "train.en", tmp_path / "train.de")
    corpus = ParallelCorpus(source_lang="en", target_lang="de", splits={"train": files})
    with pytest.raises(CorpusError, match="has 2 lines, but"):
        prepare(corpus, tmp_path / "bin")
    assert {path.name for path in tmp_path.iterdir()} == {"train.en", "train.de"}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", stream)
    corpus, options = make_corpus(), {"subwords": "subword-nmt", "shard_size": 40}
    prepare(corpus, tmp_path / "bin", progress=shown, **options)  # type: ignore[arg-type]
    steps = ["reading train", "preprocessing", "counting words", "learning subwords", "splitting"]
    text = stream.getvalue()
    assert [step in text for step in steps] == [shown] * len(steps)
    assert shown or not text
    assert ("\x1b" in text) == (terminal and shown), "bars are for terminals"
    assert ("preprocessing: 4 of 4 (100%)" in text) == (shown and not terminal)
    assert "it/s" not in text, "subword-nmt's own bar"


def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    splits = {"train": [("a", "b"), ("c", "\ud800")]}
    corpus = ParallelCorpus(source_lang="en", target_lang="de", splits=splits)
    with pytest.raises(CorpusError, match=r"After pair 0 there is '\\ud800'"):
        prepare(corpus, tmp_path / "bin")
    assert not list(tmp_path.iterdir())


def test_none_is_no_number_of_workers(tmp_path: Path) -> None:
    corpus = ParallelCorpus(source_lang="en", target_lang="de", splits={})
    with pytest.raises(CorpusError, match="`workers` must be at least 1, but is None"):
        prepare(corpus, tmp_path / "bin", workers=None)  # type: ignore[arg-type]
