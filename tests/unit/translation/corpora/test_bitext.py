import gzip
import sys
from pathlib import Path

import pytest

from admin_init.errors import MissingExtraError
from admin_init.translation.corpora.bitext import Bitext, ask_mtdata


def test_without_mtdata_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtdata", None)
    message = r"mtdata is not installed\. Run `pip install 'admin-init\[wmt\]'`\."
    with pytest.raises(MissingExtraError, match=message):
        ask_mtdata(["Statmt-europarl-7-deu-eng"], "en", "de")


def test_a_table_is_read_column_by_column() -> None:
    rows = "one\teins\textra\ntwo\tzwei\n"
    Path("nc.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    found = Bitext(url="http://127.0.0.1:1/nc.tsv.gz", columns=(1, 0)).open(".")
    assert list(found) == list(found) == [("eins", "one"), ("zwei", "two")]
