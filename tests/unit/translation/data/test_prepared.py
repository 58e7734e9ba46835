import os
from pathlib import Path

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.data.prepared import PreparedFolder


def test_they_are_those_of_the_data_module(data_bin: Path) -> None:
    ours, theirs = PreparedFolder(data_bin, "en", "de"), TranslationDataModule(data_bin, "en", "de")
    assert isinstance(theirs, PreparedFolder)
    assert ours.vocabulary_size == theirs.vocabulary_size
    pieces = ours.tokenizer.encode("the man sees a dog")
    assert pieces == theirs.tokenizer.encode("the man sees a dog")
    ids = ours.source_dictionary.encode(pieces)
    assert ids == theirs.source_dictionary.encode(pieces)
    assert ours.target_dictionary.encode(pieces) == theirs.target_dictionary.encode(pieces)
    assert ours.tokenizer.decode(ours.source_dictionary.decode(ids)) == "the man sees a dog"


def test_of_several_folders_the_first_counts(data_bin: Path, tmp_path: Path) -> None:
    several = PreparedFolder(f"{data_bin}{os.pathsep}{tmp_path / 'gone'}", "en", "de")
    assert several.folders == [data_bin, tmp_path / "gone"]
    assert list(several.source_dictionary) == list(
        PreparedFolder(data_bin, "en", "de").source_dictionary
    )
    assert several.tokenizer.encode("the man")
    one = tmp_path / f"a{os.pathsep}b"
    one.mkdir()
    assert PreparedFolder(one, "en", "de").folders == [one]


def test_files_are_read_when_they_are_needed(tmp_path: Path) -> None:
    subwords = PreparedFolder(tmp_path, "en", "de")
    with pytest.raises(CorpusError, match=r"dict\.de\.txt cannot be read"):
        _ = subwords.target_dictionary
