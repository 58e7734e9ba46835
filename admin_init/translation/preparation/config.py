"""How a corpus is prepared, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from admin_init._utils.validation import check_given
from admin_init.errors import CorpusError

SubwordKind = Literal["sentencepiece", "subword-nmt"]
LengthUnit = Literal["word", "subword"]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is done to the text, which pairs are left out, and what splits it into subwords."""

    subwords: SubwordKind = "sentencepiece"
    """`sentencepiece` splits the text as it is. `subword-nmt` splits the words that the Moses
    tokenizer finds, as in most published results: `pip install 'admin-init[wmt]'`."""

    vocabulary_size: int = 4000
    """Most subwords of both languages together, with `sentencepiece`."""

    merges: int = 32_000
    """Merge operations learned on both languages together, with `subword-nmt`."""

    sample_sentences: int = 1_000_000
    """Most sentences of both languages together that `sentencepiece` learns from: pairs that are
    evenly spaced over the training data. A million takes about 1 GB of memory."""

    sample_words: int = 400_000
    """Most distinct words of both languages together that `subword-nmt` learns from: the most
    frequent ones. The other words are split too, by the merges that these give. The default takes
    about 1 GB of memory."""

    normalize: bool = False
    """Normalize punctuation and blank non-printing characters, as Moses' scripts do. With
    `subword-nmt` not in a test split, where only typographic apostrophes become plain ones: that is
    how the published test sets were made."""

    aggressive_hyphens: bool = False
    """Make three words of a compound such as `well-known`, with `subword-nmt`."""

    lowercase: bool = False
    """Lower-case all text, the plain references too."""

    length_unit: LengthUnit = "subword"
    """What the lengths below count. `word` cleans the training pairs before they are split into
    subwords, which are then learned from what is left; `subword` cleans them after."""

    min_length: int = 1
    """Fewest words or subwords that a side of a training pair may have."""

    max_length: int = 250
    """Most words or subwords that a side of a training pair may have."""

    max_ratio: float | None = None
    """Most times that one side of a training pair may be longer than the other. Moses'
    clean-corpus-n.perl takes 9 where it is not told."""

    valid_every: int | None = None
    """Make every so many-th training pair a validation pair; counted after cleaning by words, and
    before cleaning by subwords."""

    def __post_init__(self) -> None:
        check_given(self)
        least = {
            "vocabulary_size": 1,
            "merges": 1,
            "sample_sentences": 2,
            "sample_words": 1,
            "min_length": 1,
            "max_length": self.min_length,
            "max_ratio": 1,
            "valid_every": 2,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise CorpusError(f"`{name}` must be at least {bound}, but is {value}.")
        for name, known in (("subwords", SubwordKind), ("length_unit", LengthUnit)):
            if (value := getattr(self, name)) not in get_args(known):
                choices = " or ".join(get_args(known))
                raise CorpusError(f"`{name}` must be {choices}, but is {value!r}.")
        if self.aggressive_hyphens and self.subwords != "subword-nmt":
            raise CorpusError(
                "`aggressive_hyphens` is for the Moses tokenizer: set `subwords` to `subword-nmt`."
            )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Read what is meant for this class from the settings of a manifest."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in names})
