from pathlib import Path
from typing import Any

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus


def test_the_embedded_corpus() -> None:
    corpus = CorpusConfig(train=7, valid=3, test=2, seed=5, size="large").open()
    assert (corpus.source_lang, corpus.target_lang) == ("en", "de")
    assert corpus.splits == embedded_corpus("large", seed=5, train=7, valid=3, test=2)


def test_parallel_files() -> None:
    for name in ("train", "valid", "test"):
        Path(f"{name}.fr").write_text(f"{name} bonjour\n")
        Path(f"{name}.en").write_text(f"{name} hello\n")
    corpus = CorpusConfig(kind="files", folder=".", source_lang="fr", target_lang="en").open()
    assert (corpus.source_lang, corpus.target_lang) == ("fr", "en")
    assert {name: list(pairs) for name, pairs in corpus.splits.items()} == {
        name: [(f"{name} bonjour", f"{name} hello")] for name in ("train", "valid", "test")
    }


def test_multi30k_checks_the_files_that_are_there() -> None:
    Path("train.en.gz").write_bytes(b"not the corpus")
    with pytest.raises(CorpusError, match=r"train\.en\.gz has the wrong checksum"):
        CorpusConfig(kind="multi30k", folder=".").open()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_lang": "fr"}, "'embedded' has the languages en-de, but .* `target_lang` is 'fr'"),
        ({"train": -1}, "`train` must be at least 0 pairs, but is -1"),
        ({"kind": "files"}, "corpus 'files' needs a `folder`"),
        ({"kind": "multi30k"}, "corpus 'multi30k' needs a `folder`"),
        ({"kind": "multi30k", "folder": ".", "source_lang": "de"}, "`source_lang` is 'de'"),
        ({"kind": "multi30k", "folder": ".", "target_lang": "cs"}, "`target_lang` is 'cs'"),
        ({"kind": "iwslt14"}, "corpus 'iwslt14' needs a `folder`"),
        ({"kind": "iwslt14", "folder": ".", "target_lang": "fr"}, "languages de-en or en-de, but"),
        (
            {"kind": "wmt17", "folder": ".", "target_lang": "fr"},
            "'wmt17' has the languages en-de, but",
        ),
        ({"kind": "files", "folder": "nowhere"}, r"no file nowhere/train\.en, neither plain nor"),
    ],
)
def test_what_describes_no_corpus(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        CorpusConfig(**settings).open()
