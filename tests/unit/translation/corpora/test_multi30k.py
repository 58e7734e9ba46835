import gzip
import hashlib
from pathlib import Path

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.corpora import multi30k as module
from admin_init.translation.corpora.multi30k import multi30k


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the real one, with its own text and checksums."""
    folder = tmp_path / "origin"
    folder.mkdir()
    checksums = {}
    for stem in ("train", "val", "test_2016_flickr"):
        for lang in ("en", "de", "fr"):
            data = gzip.compress(f"{stem} in {lang}\n".encode())
            (folder / f"{stem}.{lang}.gz").write_bytes(data)
            checksums[f"{stem}.{lang}.gz"] = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(module, "CHECKSUMS", checksums)
    return folder


@pytest.mark.parametrize("lang", ["de", "fr"])
def test_downloads_what_is_missing(tmp_path: Path, origin: Path, lang: str) -> None:
    folder = tmp_path / "new" / "multi30k"
    corpus = multi30k(folder, target_lang=lang, mirror=str(origin))
    assert {name: list(pairs) for name, pairs in corpus.splits.items()} == {
        "train": [("train in en", f"train in {lang}")],
        "valid": [("val in en", f"val in {lang}")],
        "test": [("test_2016_flickr in en", f"test_2016_flickr in {lang}")],
    }
    assert (corpus.source_lang, corpus.target_lang) == ("en", lang)
    assert len(list(folder.glob("*.gz"))) == 6


def test_a_folder_that_has_the_files_needs_no_network(origin: Path) -> None:
    corpus = multi30k(origin)
    assert list(corpus.splits["valid"]) == [("val in en", "val in de")]


def test_a_file_with_the_wrong_checksum_is_refused(origin: Path) -> None:
    (origin / "val.de.gz").write_bytes(b"something else")
    with pytest.raises(CorpusError, match=r"val\.de\.gz has the wrong checksum.*Delete") as caught:
        multi30k(origin)
    assert caught.value.exit_code == 2


def test_a_test_set_that_there_is_not_is_refused(origin: Path) -> None:
    with pytest.raises(CorpusError, match=r"Multi30k has no test_2031\.en\.gz; it has train"):
        multi30k(origin, test="test_2031")
