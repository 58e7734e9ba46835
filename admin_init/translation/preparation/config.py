"""How a corpus is prepared, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

from admin_init._utils.typed_json import from_json
from admin_init._utils.validation import PositiveInt, at_least, check
from admin_init.errors import CorpusError

SubwordKind = Literal["sentencepiece", "subword-nmt"]
LengthUnit = Literal["word", "subword"]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is done to the text, which pairs are left out, and what splits it into subwords."""

    subwords: SubwordKind = "sentencepiece"
    """`sentencepiece` splits the text as it is. `subword-nmt` splits the words that the Moses
    tokenizer finds, as in most published results: `pip install 'admin-init[wmt]'`."""

    vocabulary_size: PositiveInt = 4000
    """Most subwords of both languages together, with `sentencepiece`."""

    merges: PositiveInt = 32_000
    """Merge operations learned on both languages together, with `subword-nmt`."""

    sample_sentences: Annotated[int, at_least(2)] = 1_000_000
    """Most sentences of both languages together that `sentencepiece` learns from: pairs that are
    evenly spaced over the training data. A million takes about 1 GB of memory."""

    sample_words: PositiveInt = 400_000
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

    min_length: PositiveInt = 1
    """Fewest words or subwords that a side of a training pair may have."""

    max_length: PositiveInt = 250
    """Most words or subwords that a side of a training pair may have."""

    max_ratio: Annotated[float | None, at_least(1)] = None
    """Most times that one side of a training pair may be longer than the other. Moses'
    clean-corpus-n.perl takes 9 where it is not told."""

    valid_every: Annotated[int | None, at_least(2)] = None
    """Make every so many-th training pair a validation pair; counted after cleaning by words, and
    before cleaning by subwords."""

    def __post_init__(self) -> None:
        check(type(self), vars(self), CorpusError)
        if self.max_length < self.min_length:
            raise CorpusError(
                f"`max_length` must be at least {self.min_length}, but is {self.max_length}."
            )
        if self.aggressive_hyphens and self.subwords != "subword-nmt":
            raise CorpusError(
                "`aggressive_hyphens` is for the Moses tokenizer: set `subwords` to `subword-nmt`."
            )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Read what is meant for this class from the settings of a manifest."""
        names = {field.name for field in fields(cls)}
        return from_json(cls, {name: settings[name] for name in names & settings.keys()})
