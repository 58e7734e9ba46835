"""The rules of Moses' clean-corpus-n.perl."""

import pytest

from admin_init.translation.preparation.cleaning import drop_reason
from admin_init.translation.preparation.config import PrepareConfig

MOSES = PrepareConfig(length_unit="word", max_length=80, max_ratio=9)


@pytest.mark.parametrize(
    ("lengths", "config", "reason"),
    [
        ((1, 1), MOSES, None),
        ((80, 80), MOSES, None),
        ((81, 80), MOSES, "longer than 80 words"),
        ((80, 81), MOSES, "longer than 80 words"),
        ((0, 5), MOSES, "empty"),
        ((5, 0), MOSES, "empty"),
        ((0, 0), MOSES, "empty"),
        ((9, 1), MOSES, None),
        ((1, 9), MOSES, None),
        ((10, 1), MOSES, "longer than 9 times its translation"),
        ((1, 10), MOSES, "longer than 9 times its translation"),
        ((3, 2), PrepareConfig(max_ratio=1.5), None),
        ((2, 4), PrepareConfig(max_ratio=1.5), "longer than 1.5 times its translation"),
        ((250, 1), PrepareConfig(), None),
        ((251, 1), PrepareConfig(), "longer than 250 subwords"),
        ((4, 9), PrepareConfig(min_length=5), "shorter than 5 subwords"),
        ((5, 9), PrepareConfig(min_length=5), None),
        ((300, 1), None, None),
        ((300, 0), None, "empty"),
    ],
)
def test_lengths(lengths: tuple[int, int], config: PrepareConfig | None, reason: str) -> None:
    source, target = (["w"] * length for length in lengths)
    assert drop_reason(source, target, config) == reason


@pytest.mark.parametrize(("length", "dropped"), [(1000, False), (1001, True)])
def test_endless_words(length: int, dropped: bool) -> None:
    for pair in (["a", "x" * length], ["b"]), (["a"], ["x" * length]):
        reason = drop_reason(*pair, MOSES)
        assert reason == ("having a word of more than 1,000 characters" if dropped else None)
