import gzip
import re
from itertools import chain
from pathlib import Path

import pytest
from _helpers import raw_corpora
from sacrebleu.dataset import DATASETS

from admin_init.errors import CorpusError
from admin_init.translation.corpora import wmt as module
from admin_init.translation.corpora.bitext import Bitext
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.download import RECORDS
from admin_init.translation.corpora.wmt import CORPORA, TASKS, wmt

pytestmark = pytest.mark.filterwarnings("ignore:.*The mirror is trusted:UserWarning")

SIZE = 5
PARTS = {
    # Where their pairs begin among those of `raw_corpora.wmt`.
    "de": [0, 2 * SIZE, 4 * SIZE],
    "fr": [SIZE, 3 * SIZE, 6 * SIZE, 5 * SIZE, 7 * SIZE],
}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mirror")
    raw_corpora.wmt(folder, SIZE)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "target_lang", "archives"),
    [("wmt14", "de", 5), ("wmt14", "fr", 6), ("wmt17", "de", 5)],
)
def test_a_task_from_a_mirror(mirror: str, kind: str, target_lang: str, archives: int) -> None:
    config = CorpusConfig(kind=kind, folder="data", target_lang=target_lang, mirror=mirror)  # type: ignore[arg-type]
    corpus = config.open()
    assert (corpus.source_lang, corpus.target_lang) == ("en", target_lang)
    train, valid, test = raw_corpora.sentence_pairs(8 * SIZE)
    expected = {
        "train": list(chain(*(train[start : start + SIZE] for start in PARTS[target_lang]))),
        "valid": valid,
        "test": test,
    }
    if target_lang == "fr":
        del expected["valid"]
    for _ in range(2):
        assert {name: list(pairs) for name, pairs in corpus.splits.items()} == expected
    names = {path.name for path in Path("data").iterdir()} - {".lock"}
    assert RECORDS in names
    assert len(names) == archives + 1
    # What is there needs no mirror, and is that which was fetched.
    again = CorpusConfig(kind=kind, folder="data", target_lang=target_lang).open()  # type: ignore[arg-type]
    assert list(again.splits["train"]) == expected["train"]


def test_other_corpora_to_train_on(mirror: str) -> None:
    corpus = wmt(
        "wmt14",
        "data",
        target_lang="fr",
        bitexts=["Statmt-un_wmt13-2000-fra-eng", "Statmt-commoncrawl_wmt13-1-fra-eng"],
        mirror=mirror,
    )
    train = raw_corpora.sentence_pairs(8 * SIZE)[0]
    assert list(corpus.splits["train"]) == [
        *train[6 * SIZE : 7 * SIZE],
        *train[3 * SIZE : 4 * SIZE],
    ]


def test_other_names_are_asked_of_mtdata(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_mtdata(names: list[str], *langs: str) -> dict[str, Bitext]:
        # The French part is pinned, but not for German.
        assert (names, langs) == (["Statmt-table", "Statmt-un_wmt13-2000-fra-eng"], ("en", "de"))
        return dict.fromkeys(names, Bitext(url="http://any/table.tsv.gz", columns=(1, 0)))

    monkeypatch.setattr(module, "ask_mtdata", ask_mtdata)
    Path("data").mkdir()
    Path("data/table.tsv.gz").write_bytes(gzip.compress(b"eins\tone\n"))
    names = [
        "Statmt-table",
        "Statmt-commoncrawl_wmt13-1-deu-eng",
        "Statmt-un_wmt13-2000-fra-eng",
    ]
    corpus = wmt("wmt14", "data", bitexts=names, mirror=mirror)
    common_crawl = raw_corpora.sentence_pairs(8 * SIZE)[0][2 * SIZE : 3 * SIZE]
    assert list(corpus.splits["train"]) == [("one", "eins"), *common_crawl, ("one", "eins")]


def test_the_training_data_are_those_of_fairseqs_scripts() -> None:
    """The same archives and the same members, in the same order; and its test set."""
    for (year, lang), task in TASKS.items():
        script = raw_corpora.fairseq_script(f"prepare-wmt14en2{lang}.sh")
        urls, stems = (
            re.findall(r'"(.*)"', script.partition(f"\n{name}=(")[2].partition("\n)")[0])
            for name in ("URLS", "CORPORA")
        )
        assert len(task.train) == len(stems)
        for name, url, stem in zip(task.train, urls, stems, strict=False):
            corpus = CORPORA[name]
            assert corpus.url.replace("www.", "") == url
            assert [member.removesuffix(".gz") for member in corpus.members or ()] == [
                f"{stem}.en",
                f"{stem}.{lang}",
            ]
        assert (DATASETS[task.test].data == [urls[-1].replace("http:", "https:")]) == (
            year == "wmt14"
        )


def test_the_archive_of_the_validation_sets_is_one_of_sacrebleus() -> None:
    corpus, known = CORPORA["Statmt-newstest-2013-eng-deu"], DATASETS["wmt20/dev"]
    assert known.data == [corpus.url.replace("http:", "https:")]
    assert [f"md5:{digest}" for digest in known.md5 or ()] == [corpus.checksum]


def test_a_part_whose_sides_differ_is_named(mirror: str) -> None:
    members = {"commoncrawl.de-en.en": b"one\ntwo\n", "commoncrawl.de-en.de": b"eins\n"}
    raw_corpora.tar(Path("data/training-parallel-commoncrawl.tgz"), members)
    (Path("data") / RECORDS).write_text("{}")
    with pytest.raises(CorpusError, match=r"commoncrawl\.tgz has the wrong checksum"):
        wmt("wmt14", "data", mirror=mirror)
    Path("mirror").mkdir()
    for file in Path(mirror).iterdir():
        (Path("mirror") / file.name).write_bytes(file.read_bytes())
    Path("data/training-parallel-commoncrawl.tgz").rename(
        "mirror/training-parallel-commoncrawl.tgz"
    )
    corpus = wmt("wmt14", "data", mirror="mirror")
    with pytest.raises(
        CorpusError, match=r"commoncrawl\.de-en\.en has 2 lines, but .*commoncrawl\.de-en\.de has 1"
    ):
        list(corpus.splits["train"])


def test_there_are_no_other_tasks() -> None:
    with pytest.raises(CorpusError, match="one of wmt14 de, wmt14 fr, wmt17 de, but are wmt17 fr"):
        wmt("wmt17", "data", target_lang="fr")
