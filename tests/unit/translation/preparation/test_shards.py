from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from admin_init._utils.atomic_files import write_whole
from admin_init.translation.preparation.shards import IdPairs, TextPairs


def test_text_comes_back_with_all_its_odd_characters(tmp_path: Path) -> None:
    text = TextPairs(
        lines=[5, 7, 8],
        sources=["a\tb", "", "x\n\r\n"],
        targets=["\x85\u2028", " c\r", "y"],
        references=["A\x1c", "", "\x0c"],
        dropped={"empty": [6], "longer": [9]},
    )
    text.save(tmp_path / "text")
    assert TextPairs.load(tmp_path / "text") == text
    assert TextPairs.count(tmp_path / "text") == 3


def test_an_empty_text(tmp_path: Path) -> None:
    for text in (TextPairs(dropped={"empty": [1]}), TextPairs([1], [""], [""])):
        text.save(tmp_path / "text")
        assert TextPairs.load(tmp_path / "text") == text
        assert TextPairs.count(tmp_path / "text") == len(text.lines)


def test_ids_come_back(tmp_path: Path) -> None:
    pairs = IdPairs(references=["B", "C"], dropped={"longer": [3], "empty": [8]}, drawn=7)
    pairs.append(["a", "b"], ["b"])
    pairs.append([], ["c", "</s>"])
    pairs.save(tmp_path / "ids")
    found = IdPairs.load(tmp_path / "ids")
    assert found == pairs
    tokens = list(found.vocabulary)
    spelled = [[tokens[i] for i in ids] for ids in (found.source, found.target)]
    assert spelled == [["a", "b", "</s>", "</s>"], ["b", "</s>", "c", "</s>", "</s>"]]
    assert found.source_sizes.tolist() == [3, 1]
    assert found.target_sizes.tolist() == [2, 3]
    counts = IdPairs.counts(tmp_path / "ids")
    assert counts == Counter(a=1, b=2, c=1) + Counter({"</s>": 5})


@pytest.mark.parametrize("size", [0, 300, 70_000])
def test_a_vocabulary_takes_as_many_bytes_as_it_needs(tmp_path: Path, size: int) -> None:
    pairs, words = IdPairs(), [str(i) for i in range(size)]
    if size:
        pairs.append(words, [])
    pairs.save(tmp_path / "ids")
    assert IdPairs.load(tmp_path / "ids") == pairs
    assert [*pairs.vocabulary] == ["</s>", *words]
    with np.load(tmp_path / "ids") as content:
        assert content["source"].itemsize == (1 if not size else 2 if size == 300 else 4)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write(file: object) -> None:
        assert not (tmp_path / "x").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x", write)
    assert not (tmp_path / "x").exists()
