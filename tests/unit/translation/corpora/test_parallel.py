import bz2
import gzip
import lzma
from pathlib import Path

import pytest
from backports import zstd

from admin_init.errors import CorpusError
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.parallel import (
    Concatenation,
    ParallelCorpus,
    ParallelFiles,
    parallel_files,
)
from admin_init.translation.corpora.texts import TextLimits
from admin_init.translation.data.datamodule import TranslationDataModule

SPLITS = ("train", "valid", "test")


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


@pytest.mark.parametrize("ending", ["bz2", "xz", "zst"])
def test_other_compressions_are_found_beside_the_expected_name(tmp_path: Path, ending: str) -> None:
    compress = {"bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}[ending]
    write(tmp_path, train_de="eins\nzwei\n")
    (tmp_path / f"train.en.{ending}").write_bytes(compress(b"one\ntwo\n"))
    corpus = CorpusConfig(kind="files", folder=str(tmp_path))
    with pytest.raises(CorpusError, match="neither plain nor as"):
        corpus.open()  # There is no valid.en.
    pairs = parallel_files(tmp_path, "en", "de", valid=None, test=None).splits["train"]
    assert list(pairs) == [("one", "eins"), ("two", "zwei")]


def test_the_settings_of_a_corpus_bound_its_files(tmp_path: Path) -> None:
    texts = {f"{split}_{lang}": "abcdefgh\n" for split in SPLITS for lang in ("en", "de")}
    write(tmp_path, **texts)
    corpus = CorpusConfig(kind="files", folder=str(tmp_path), max_line_bytes=8).open()
    with pytest.raises(CorpusError, match=r"train\.en, line 1 has more than 8 bytes"):
        list(corpus.splits["train"])
    parts = Concatenation((ParallelFiles(tmp_path / "train.en", tmp_path / "train.de"),))
    joined = ParallelCorpus(source_lang="en", target_lang="de", splits={"train": parts})
    assert list(joined.splits["train"]) == [("abcdefgh", "abcdefgh")]
    with pytest.raises(CorpusError, match="more than 8 bytes"):
        list(joined.within(TextLimits(max_line_bytes=8)).splits["train"])
    for name in ("max_line_bytes", "max_expansion"):
        with pytest.raises(CorpusError, match=f"`{name}` must be at least 1, but is 0"):
            CorpusConfig(**{name: 0}).open()


def test_one_language_is_no_pair(tmp_path: Path) -> None:
    for refused in (
        lambda: ParallelCorpus(source_lang="en", target_lang="en", splits={}),
        lambda: CorpusConfig(kind="files", folder="gone", target_lang="en").open(),
        lambda: TranslationDataModule("gone", "de", "de"),
    ):
        with pytest.raises(CorpusError, match="`source_lang` and `target_lang` are both"):
            refused()
