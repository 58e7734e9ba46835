from pathlib import Path

import pytest
import torch

from admin_init.errors import CorpusError
from admin_init.translation.data.dictionary import Dictionary


def test_writes_what_fairseq_writes(tmp_path: Path) -> None:
    # fairseq: by falling count, ties by code point, padded to a multiple of 8 with the specials.
    counts = {"b": 3, "ä": 3, "a": 3, "c": 5, "▁d": 1}
    dictionary = Dictionary.from_counts(counts)
    dictionary.save(tmp_path / "dict.en.txt")
    lines = ["c 5", "a 3", "b 3", "ä 3", "▁d 1"]
    lines += [f"madeupword{i:04d} 0" for i in range(7)]
    assert (tmp_path / "dict.en.txt").read_bytes() == ("\n".join(lines) + "\n").encode()
    assert len(dictionary) == 16


def test_no_padding_where_none_is_needed() -> None:
    assert len(Dictionary.from_counts({"a": 1, "b": 1, "c": 1, "d": 1})) == 8
    assert len(Dictionary.from_counts({"a": 1}, padding_factor=1)) == 5


def test_a_filler_or_a_special_in_the_corpus_is_not_repeated() -> None:
    dictionary = Dictionary.from_counts({"madeupword0000": 9, "</s>": 7, "a": 1})
    tokens = [dictionary[i] for i in range(len(dictionary))]
    assert tokens[2:7] == ["</s>", "<unk>", "madeupword0000", "a", "madeupword0001"]
    assert len(set(tokens)) == len(tokens) == 8


def test_reads_a_file_of_fairseq(tmp_path: Path) -> None:
    path = tmp_path / "dict.de.txt"
    path.write_text("▁der 12\n▁Haus 3\nmadeupword0000 0\n", encoding="utf-8")
    dictionary = Dictionary.load(path)
    assert [dictionary[i] for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert dictionary.encode(["▁Haus", "▁der", "▁Hof"]) == [5, 4, 3, 2]
    assert dictionary.decode(torch.tensor([0, 5, 4, 3, 2, 1, 1])) == ["▁Haus", "▁der", "<unk>"]
    dictionary.save(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()


def test_a_repeated_token_is_refused_with_both_places(tmp_path: Path) -> None:
    path = tmp_path / "dict.de.txt"
    path.write_text("a 2\nb 1\na 1\n")
    with pytest.raises(CorpusError, match=r"dict\.de\.txt, line 3: .*'a' already has id 4.*over"):
        Dictionary.load(path)


def test_a_token_marked_as_overwriting_gets_the_later_id(tmp_path: Path) -> None:
    path = tmp_path / "dict.de.txt"
    path.write_text("a 2\nb 1\na 1 #fairseq:overwrite\n")
    dictionary = Dictionary.load(path)
    assert (dictionary.index("a"), dictionary.index("b"), len(dictionary)) == (6, 5, 7)


@pytest.mark.parametrize("line", ["a", "a b", " 3", "a -1", "", f"a {'9' * 5000}"])
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "dict.de.txt"
    path.write_text(f"x 2\n{line}\ny 1\n")
    with pytest.raises(CorpusError, match="line 2: expected '<token> <count>'"):
        Dictionary.load(path)


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere\.txt cannot be read"):
        Dictionary.load(tmp_path / "nowhere.txt")
    (tmp_path / "latin.txt").write_bytes("ä 1\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"latin\.txt cannot be read"):
        Dictionary.load(tmp_path / "latin.txt")
