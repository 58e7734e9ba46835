from pathlib import Path

import pytest

from admin_init.translation.datamodule import TranslationDataModule
from admin_init.translation.errors import CorpusError
from admin_init.translation.subwords import Subwords


def test_they_are_those_of_the_data_module(data_bin: Path) -> None:
    ours, theirs = Subwords(data_bin, "en", "de"), TranslationDataModule(data_bin, "en", "de")
    assert isinstance(theirs, Subwords)
    assert ours.vocabulary_size == theirs.vocabulary_size
    pieces = ours.tokenizer.encode("the man sees a dog")
    assert pieces == theirs.tokenizer.encode("the man sees a dog")
    ids = ours.source_dictionary.encode(pieces)
    assert ids == theirs.source_dictionary.encode(pieces)
    assert ours.target_dictionary.encode(pieces) == theirs.target_dictionary.encode(pieces)
    assert ours.tokenizer.decode(ours.source_dictionary.decode(ids)) == "the man sees a dog"


def test_files_are_read_when_they_are_needed(tmp_path: Path) -> None:
    subwords = Subwords(tmp_path, "en", "de")
    with pytest.raises(CorpusError, match=r"dict\.de\.txt cannot be read"):
        _ = subwords.target_dictionary
