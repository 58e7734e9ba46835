"""Configuration of a recipe's preparation."""

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
    """Text preprocessing, subwords, and the training pairs to drop."""

    subwords: SubwordKind = "sentencepiece"
    """`sentencepiece` splits raw text. `subword-nmt` splits words of the Moses tokenizer, as in
    most published results; it needs `pip install 'admin-init[wmt]'`."""

    vocabulary_size: PositiveInt = 4000
    """With `sentencepiece`: maximum number of subwords, joint for both languages."""

    merges: PositiveInt = 32_000
    """With `subword-nmt`: number of merge operations, joint for both languages."""

    sample_sentences: Annotated[int, at_least(2)] = 1_000_000
    """With `sentencepiece`: maximum number of sentences, in both languages together, to learn
    subwords from. They are evenly spaced over the training data. A million takes about 1 GB of
    memory."""

    sample_words: PositiveInt = 400_000
    """With `subword-nmt`: maximum number of distinct words, in both languages together, to learn
    subwords from. The most frequent words are taken; the merges learned from them split the other
    words too. The default takes about 1 GB of memory."""

    normalize: bool = False
    """Normalize punctuation and replace non-printing characters by spaces, as Moses' scripts do.
    With `subword-nmt`, test splits are not normalized: only their typographic apostrophes become
    plain ones, as in the published test sets."""

    aggressive_hyphens: bool = False
    """With `subword-nmt`: split a compound such as `well-known` into three words."""

    lowercase: bool = False
    """Lower-case all text, including the plain references."""

    length_unit: LengthUnit = "subword"
    """Unit of the lengths below. With `word`, training pairs are cleaned before subwords are
    learned; with `subword`, after they are split into subwords."""

    min_length: PositiveInt = 1
    """Minimum number of words or subwords in each side of a training pair."""

    max_length: PositiveInt = 250
    """Maximum number of words or subwords in each side of a training pair."""

    max_ratio: Annotated[float | None, at_least(1)] = None
    """Largest ratio of the lengths of the two sides of a training pair. The default of Moses'
    clean-corpus-n.perl is 9."""

    valid_every: Annotated[int | None, at_least(2)] = None
    """Take every n-th training pair for validation. Pairs are counted after cleaning by words, but
    before cleaning by subwords."""

    def __post_init__(self) -> None:
        check(type(self), vars(self), CorpusError)
        if self.max_length < self.min_length:
            raise CorpusError(
                f"`max_length` must be at least {self.min_length}, but is {self.max_length}."
            )
        if self.aggressive_hyphens and self.subwords != "subword-nmt":
            raise CorpusError(
                "`aggressive_hyphens` needs the Moses tokenizer: set `subwords` to `subword-nmt`."
            )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build the configuration from a manifest's settings, and ignore those of other classes."""
        names = {field.name for field in fields(cls)}
        return from_json(cls, {name: settings[name] for name in names & settings.keys()})
