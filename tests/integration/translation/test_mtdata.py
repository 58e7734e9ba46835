"""Corpora in the index of mtdata, which takes seconds to read."""

import os
import sys

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.corpora.bitext import Bitext, ask_mtdata
from admin_init.translation.corpora.wmt import CORPORA

OTHERS = [
    "Statmt-europarl-7-deu-eng",
    "Statmt-news_commentary-14-deu-eng",
    "OPUS-europarl-v8-deu-eng",
]
MISSING = {
    "Statmt-news_commentary_wmt17-12-deu-eng",
    "Statmt-news_commentary_wmt14-9-fra-eng",
    "Statmt-un_wmt13-2000-fra-eng",
    "Statmt-giga_fren_wmt10-2-fra-eng",
}


@pytest.fixture(scope="module")
def found() -> dict[str, Bitext]:
    """What mtdata says."""
    german = [name for name in CORPORA if "deu" in name and name not in MISSING]
    return ask_mtdata(german + OTHERS, "en", "de")


def check(found: dict[str, Bitext], language: str) -> None:
    for name, pinned in CORPORA.items():
        if language in name and name not in MISSING:
            assert found[name].url == pinned.url
            assert tuple(found[name].members or ()) == pinned.members


def test_pinned_corpora_are_as_in_mtdatas_index(found: dict[str, Bitext]) -> None:
    check(found, "deu")


@pytest.mark.slow
def test_pinned_french_corpora_are_as_in_mtdatas_index() -> None:
    french = [name for name in CORPORA if "fra" in name and name not in MISSING]
    check(ask_mtdata(french, "en", "fr"), "fra")


def test_either_direction_a_table_and_a_zip_of_opus(found: dict[str, Bitext]) -> None:
    europarl, table, opus = (found[name] for name in OTHERS)
    assert europarl.members == ["europarl-v7.de-en.en", "europarl-v7.de-en.de"]
    assert (table.members, table.columns) == (None, [1, 0])
    assert (opus.members, opus.name) == (["*.en", "*.de"], "OPUS-europarl-v8-deu-eng.zip")


def test_asking_leaves_nothing_in_this_process_and_folder(found: dict[str, Bitext]) -> None:
    assert "mtdata" not in sys.modules
    assert not os.listdir()


def test_what_is_no_corpus_for_these_languages_is_refused_all_at_once() -> None:
    with pytest.raises(CorpusError) as caught:
        ask_mtdata(
            ["Statmt-europarl-7-fra-eng", "Tilde-rapid-2016-deu-eng", *sorted(MISSING)], "en", "de"
        )
    assert str(caught.value).split("\n") == [
        "Statmt-europarl-7-fra-eng cannot be used: it is a txt file in fra-eng, but must be a txt "
        "or sgm file in an archive, or a tsv file, in en and de.",
        "Tilde-rapid-2016-deu-eng cannot be used: it is a tmx file in deu-eng, but must be a txt "
        "or sgm file in an archive, or a tsv file, in en and de.",
        *(
            f"mtdata knows no corpus {name!r}. `mtdata list -l en-de` lists the corpora that it "
            "knows."
            for name in sorted(MISSING)
        ),
    ]
