from pathlib import Path

import pytest
from _helpers import raw_corpora

from admin_init.errors import CorpusError
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.iwslt14 import URL, iwslt14


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    raw_corpora.iwslt14(tmp_path / "mirror")
    return str(tmp_path / "mirror")


def test_german_to_english(mirror: str) -> None:
    corpus = iwslt14("data", mirror=mirror)
    assert (corpus.source_lang, corpus.target_lang) == ("de", "en")
    train, _, test = raw_corpora.sentence_pairs()
    expected = {"train": train, "test": test}
    for _ in range(2):
        found = {name: list(pairs) for name, pairs in corpus.splits.items()}
        assert found == {name: [(de, en) for en, de in expected[name]] for name in expected}


def test_english_to_german_from_a_folder_that_has_the_archive(mirror: str) -> None:
    corpus = CorpusConfig(kind="iwslt14", folder=mirror).open()
    assert (corpus.source_lang, corpus.target_lang) == ("en", "de")
    assert list(corpus.splits["test"]) == raw_corpora.sentence_pairs()[2]


def test_sides_of_unequal_length_are_refused(tmp_path: Path) -> None:
    members = {
        "de-en/train.tags.de-en.de": raw_corpora.talk_tags(["1", "2", "3"]),
        "de-en/train.tags.de-en.en": raw_corpora.talk_tags(["1", "2"]),
    }
    raw_corpora.tar(tmp_path / "de-en.tgz", members)
    corpus = iwslt14(tmp_path)
    with pytest.raises(CorpusError, match=r"train\.tags\.de-en\.de has 3 lines, but .*\.en has 2"):
        list(corpus.splits["train"])
    with pytest.raises(CorpusError, match=r"has no file \*\.TED\*\.dev2010\.de-en\.de\.xml"):
        list(corpus.splits["test"])


def test_the_address_is_fairseqs() -> None:
    script = raw_corpora.fairseq_script("prepare-iwslt14.sh")
    assert URL.removeprefix("https") in script
