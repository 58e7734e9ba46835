import random
from collections import Counter
from pathlib import Path

from admin_init.translation.preparation.word_counts import count_words, merge_counts, most_frequent


def test_many_files_are_counted_as_one(tmp_path: Path) -> None:
    """More of them than are merged at once."""
    rng = random.Random(0)
    words = [*"abcdefgh", "ä", "é", "\u200b", "&#124;", "😀"]
    texts = [" ".join(rng.choices(words, range(1, 14), k=30)) for _ in range(200)]
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.words")
        count_words([text, ""], files[-1])
    expected = Counter(word for text in texts for word in text.split())
    merged = merge_counts(files, tmp_path)
    found, distinct = most_frequent(merged, 99)
    assert dict(found) == expected
    assert distinct == len(expected)
    assert [count for _, count in found] == sorted(expected.values(), reverse=True)
    assert most_frequent(merged, 4) == (found[:4], len(expected))


def test_a_single_file_and_ties(tmp_path: Path) -> None:
    count_words(["b a c", "d b"], tmp_path / "words")
    merged = merge_counts([tmp_path / "words"], tmp_path)
    assert most_frequent(merged, 3) == ([("b", 2), ("a", 1), ("c", 1)], 4)
