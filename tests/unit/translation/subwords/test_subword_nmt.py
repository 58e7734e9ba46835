import sys
from pathlib import Path

import pytest

from admin_init.errors import CorpusError, MissingExtraError
from admin_init.translation.subwords.subword_nmt import BytePairs

# Those of Sennrich et al. (2016), section 3.2.
COUNTS = [("low", 5), ("lowest", 2), ("newer", 6), ("wider", 3)]


def test_the_words_of_the_paper() -> None:
    subwords = BytePairs.learn(COUNTS, 4)
    assert subwords.model.decode().splitlines() == [
        "#version: 0.2",
        "e r</w>",  # 9 times
        "l o",  # 7 times
        "w er</w>",  # 6 times, as "n e"; the later one in the alphabet comes first
        "n e",
    ]
    assert subwords.split("lower newer") == ["lo@@", "wer", "ne@@", "wer"]


def test_joining_undoes_splitting() -> None:
    subwords = BytePairs.learn(COUNTS, 3)
    text = "newest wide lower @-@ @ a@@ low"
    assert len(subwords.split(text)) > len(text.split())
    assert subwords.join(subwords.split(text)) == text
    assert subwords.join(["lo@@", "w", "wi@@"]) == "low wi"
    assert subwords.join([]) == ""


def test_the_order_of_the_words_does_not_matter(tmp_path: Path) -> None:
    subwords = BytePairs.learn(COUNTS, 9)
    assert BytePairs.learn(COUNTS[::-1], 9).model == subwords.model
    (tmp_path / "codes").write_bytes(subwords.model)
    assert BytePairs.load(tmp_path / "codes").split("lowest") == subwords.split("lowest")


def test_memory_for_known_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    subwords = BytePairs.learn(COUNTS, 9)
    expected = [subwords.split(f"newest{i}") for i in range(9)]
    monkeypatch.setattr("admin_init.translation.subwords.subword_nmt._CACHED_WORDS", 3)
    few = BytePairs(subwords.model)
    assert [few.split(f"newest{i}") for i in range(9)] == expected
    assert len(few._pieces) <= 3
    assert not few._bpe.cache


def test_nothing_to_learn_from_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CorpusError, match="subword-nmt cannot learn 5 merges"):
        BytePairs.learn([], 5)
    BytePairs.learn(COUNTS, 5)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_holds_no_merges_is_named(tmp_path: Path) -> None:
    (tmp_path / "three").write_text("#version: 0.2\na b c\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("three", "binary", "nowhere"):
        with pytest.raises(CorpusError, match=f"{name} cannot be read"):
            BytePairs.load(tmp_path / name)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("subword_nmt")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "subword_nmt", None)
    message = r"^subword-nmt is not installed\. Run `pip install 'admin-init\[wmt\]'`\.$"
    with pytest.raises(MissingExtraError, match=message):
        BytePairs.learn(COUNTS, 5)
