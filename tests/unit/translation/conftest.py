"""A tiny prepared corpus, made once."""

from pathlib import Path

import pytest

from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare


@pytest.fixture(scope="session")
def data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 training, 30 validation and 30 test pairs of the embedded corpus."""
    folder = tmp_path_factory.mktemp("corpus") / "data-bin"
    prepare(CorpusConfig(train=200, valid=30, test=30).open(), folder, vocabulary_size=300)
    return folder
