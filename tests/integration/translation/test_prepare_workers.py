"""A preparation by several processes."""

from pathlib import Path

import pytest
from _helpers.small_preparation import KINDS, files, make_corpus

from admin_init.translation.preparation.prepare import prepare


@pytest.mark.parametrize("kind", KINDS)
def test_neither_workers_nor_shards_change_what_is_written(tmp_path: Path, kind: str) -> None:
    prepare(make_corpus(), tmp_path / "one", **KINDS[kind])
    prepare(make_corpus(), tmp_path / "many", workers=2, shard_size=17, **KINDS[kind])
    assert files(tmp_path / "many") == files(tmp_path / "one")
