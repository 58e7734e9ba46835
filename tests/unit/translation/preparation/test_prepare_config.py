from typing import Any

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.preparation.config import PrepareConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_size": 0}, "`vocabulary_size` must be at least 1, but is 0"),
        ({"merges": -1}, "`merges` must be at least 1, but is -1"),
        ({"sample_sentences": 1}, "`sample_sentences` must be at least 2, but is 1"),
        ({"sample_words": 0}, "`sample_words` must be at least 1, but is 0"),
        ({"min_length": 0}, "`min_length` must be at least 1, but is 0"),
        ({"min_length": 9, "max_length": 8}, "`max_length` must be at least 9, but is 8"),
        ({"max_ratio": 0.5}, "`max_ratio` must be at least 1, but is 0.5"),
        ({"valid_every": 1}, "`valid_every` must be at least 2, but is 1"),
        ({"subwords": "bpe"}, "`subwords` must be one of sentencepiece, subword-nmt, but is 'bpe'"),
        ({"length_unit": []}, r"`length_unit` must be one of word, subword, but is \[\]"),
        ({"aggressive_hyphens": True}, "set `subwords` to `subword-nmt`"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        PrepareConfig(**settings)
