import gzip
from pathlib import Path

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.corpora import bitext
from admin_init.translation.corpora.bitext import Bitext, ask_mtdata


def test_without_mtdata_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitext, "find_spec", lambda _: None)
    with pytest.raises(CorpusError, match=r"not installed\. Run `pip install 'admin-init\[wmt\]'`"):
        ask_mtdata(["Statmt-europarl-7-deu-eng"], "en", "de")


def test_a_table_is_read_column_by_column() -> None:
    rows = "one\teins\textra\ntwo\tzwei\n"
    Path("nc.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    found = Bitext(url="http://127.0.0.1:1/nc.tsv.gz", columns=(1, 0)).open(".")
    assert list(found) == list(found) == [("eins", "one"), ("zwei", "two")]
