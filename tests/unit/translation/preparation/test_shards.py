from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from admin_init._utils.atomic_files import write_whole
from admin_init.translation.preparation.shards import IdShard, IdShardBuilder, TextShard


def test_text_comes_back_with_all_its_odd_characters(tmp_path: Path) -> None:
    pairs = [("a\tb", "\x85\u2028"), ("", " c\r"), ("x", "y")]
    shard = TextShard(5, 5, {"empty": [6], "longer": [9]}, pairs, ["A\x1c", "", "\x0c"])
    shard.save(tmp_path / "text")
    found = TextShard.load(tmp_path / "text")
    assert found == shard
    assert found.kept == 3
    assert found.lines == [5, 7, 8]
    head = TextShard.load_head(tmp_path / "text")
    assert (head.first_line, head.read, head.dropped, head.pairs) == (5, 5, shard.dropped, [])


def test_an_empty_text(tmp_path: Path) -> None:
    for shard in (TextShard(1, 1, {"empty": [1]}), TextShard(1, 1, pairs=[("", "")])):
        shard.save(tmp_path / "text")
        assert TextShard.load(tmp_path / "text") == shard


def test_ids_come_back(tmp_path: Path) -> None:
    builder = IdShardBuilder({"longer": [3]})
    builder.add(["a", "b"], ["b"], "B")
    builder.drop(8, "empty")
    builder.add([], ["c", "</s>"], "C")
    assert builder.read == 3
    builder.build(drawn=7).save(tmp_path / "ids")
    shard = IdShard.load(tmp_path / "ids")
    spelled = [[shard.tokens[i] for i in ids] for ids in (shard.source, shard.target)]
    assert spelled == [["a", "b", "</s>", "</s>"], ["b", "</s>", "c", "</s>", "</s>"]]
    assert shard.source_sizes.tolist() == [3, 1]
    assert shard.target_sizes.tolist() == [2, 3]
    assert shard.references == ["B", "C"]
    assert shard.dropped == {"longer": [3], "empty": [8]}
    assert shard.drawn == 7
    counts = IdShard.load_counts(tmp_path / "ids")
    assert counts == Counter(a=1, b=2, c=1) + Counter({"</s>": 5})


def test_a_vocabulary_of_more_than_two_bytes() -> None:
    words = [str(i) for i in range(70_000)]
    builder = IdShardBuilder({})
    builder.add(words, [], None)
    shard = builder.build()
    assert [shard.tokens[i] for i in shard.source[:-1]] == words
    assert shard.source.dtype == np.uint32
    assert shard.references == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write(file: object) -> None:
        assert not (tmp_path / "x").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x", write)
    assert not (tmp_path / "x").exists()
