import gzip
from pathlib import Path

import pytest

from admin_init.translation.corpora import ParallelFiles, parallel_files
from admin_init.translation.errors import CorpusError


def write(folder: Path, **texts: str | bytes) -> None:
    for name, text in texts.items():
        stem, lang, *zipped = name.split("_")
        data = text if isinstance(text, bytes) else text.encode()
        path = folder / ".".join([stem, lang, *zipped])
        path.write_bytes(gzip.compress(data) if zipped else data)


def test_plain_and_gzip_files_give_pairs_again_and_again(tmp_path: Path) -> None:
    write(tmp_path, train_en_gz="one\ntwo\u2028still two\n", train_de="eins\r\nzwei")
    corpus = parallel_files(tmp_path, "en", "de", valid=None, test=None)
    pairs = [("one", "eins"), ("two\u2028still two", "zwei")]
    assert list(corpus.splits["train"]) == list(corpus.splits["train"]) == pairs
    assert (corpus.source_lang, corpus.target_lang) == ("en", "de")


def test_splits_have_the_names_they_are_given(tmp_path: Path) -> None:
    write(tmp_path, a_en="1", a_de="1", b_en="2", b_de="2", c_en="3", c_de="3")
    corpus = parallel_files(tmp_path, "en", "de", train="a", valid="b", test="c")
    found = {name: list(pairs) for name, pairs in corpus.splits.items()}
    assert found == {"train": [("1", "1")], "valid": [("2", "2")], "test": [("3", "3")]}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, train_en="one\n")
    with pytest.raises(CorpusError, match=r"has no .*train\.de, neither plain nor as \.gz"):
        parallel_files(tmp_path, "en", "de")
    with pytest.raises(CorpusError, match=r"nowhere\.de cannot be read: it is missing"):
        list(ParallelFiles(tmp_path / "train.en", tmp_path / "nowhere.de"))


@pytest.mark.parametrize(
    ("source", "target", "counts"), [("1\n2\n3\n4", "1\n2", "4 .* 2"), ("", "1\n", "0 .* 1")]
)
def test_unequal_line_counts_are_refused_with_both(
    tmp_path: Path, source: str, target: str, counts: str
) -> None:
    write(tmp_path, train_en=source, train_de=target)
    first, second = counts.split(" .* ")
    with pytest.raises(
        CorpusError, match=rf"train\.en has {first} lines, but .*train\.de has {second}"
    ):
        list(ParallelFiles(tmp_path / "train.en", tmp_path / "train.de"))


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path, train_en="one\ntwo\nthree\n", train_de="eins\nzwei\nfünf".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"train\.de, line 3: byte 2 is not UTF-8") as caught:
        list(ParallelFiles(tmp_path / "train.en", tmp_path / "train.de"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("damage", ["cut", "plain", "body"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: str) -> None:
    text = "".join(f"line {i}\n" for i in range(5000))
    write(tmp_path, train_en=text, train_de_gz=text)
    path = tmp_path / "train.de.gz"
    whole = path.read_bytes()
    broken = {
        "cut": whole[: len(whole) // 2],
        "plain": text.encode(),
        "body": whole[:200] + bytes(50) + whole[250:],
    }
    path.write_bytes(broken[damage])
    with pytest.raises(CorpusError, match=r"train\.de\.gz cannot be read: it is .*truncated"):
        list(ParallelFiles(tmp_path / "train.en", path))
