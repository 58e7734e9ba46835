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
    """Subword tool: `sentencepiece`, on raw text, or `subword-nmt`, on text tokenized by Moses, as
    in most published results. `subword-nmt` needs `pip install 'admin-init[wmt]'`."""

    vocabulary_size: PositiveInt = 4000
    """With `sentencepiece`: maximum size of the vocabulary, joint for both languages."""

    merges: PositiveInt = 32_000
    """With `subword-nmt`: number of merge operations, joint for both languages."""

    sample_sentences: Annotated[int, at_least(2)] = 1_000_000
    """With `sentencepiece`: maximum number of sentences, over both languages, to learn subwords
    from. They are evenly spaced in the training data. A million takes about 1 GB of memory."""

    sample_words: PositiveInt = 400_000
    """With `subword-nmt`: maximum number of distinct words, over both languages, to learn merges
    from. The most frequent words are used; the merges also apply to all other words. The default
    takes about 1 GB of memory."""

    normalize: bool = False
    """Normalize punctuation and replace non-printing characters with spaces, as Moses' scripts do.
    With `subword-nmt`, test splits are not normalized, except that typographic apostrophes are
    replaced with ASCII ones, as in the published test sets."""

    aggressive_hyphens: bool = False
    """With `subword-nmt`: split a compound such as `well-known` into three words."""

    lowercase: bool = False
    """Lowercase all text, including the references for sacreBLEU."""

    length_unit: LengthUnit = "subword"
    """Unit of `min_length`, `max_length` and `max_ratio`. With `word`, training pairs are cleaned
    before subwords are learned; with `subword`, after they are split into subwords."""

    min_length: PositiveInt = 1
    """Minimum length of each side of a training pair; shorter pairs are dropped."""

    max_length: PositiveInt = 250
    """Maximum length of each side of a training pair; longer pairs are dropped."""

    max_ratio: Annotated[float | None, at_least(1)] = None
    """Maximum ratio between the lengths of the two sides of a training pair; null for no limit.
    Moses' clean-corpus-n.perl uses 9 by default."""

    valid_every: Annotated[int | None, at_least(2)] = None
    """Move every n-th training pair to the validation split, for corpora that have none. Pairs are
    counted after cleaning by words, but before cleaning by subwords."""

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
