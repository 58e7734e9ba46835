"""What is done to every shard of a corpus, stage by stage, in whatever process.

A stage reads what the stage before it has written, and writes one file. Nothing that it writes
depends on other shards but through what its task says, so the order does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from admin_init.translation.preparation.cleaning import drop_reason
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.preprocessing import Preprocessor
from admin_init.translation.preparation.shards import IdShardBuilder, Shard, TextShard
from admin_init.translation.preparation.word_counts import count_words
from admin_init.translation.subwords.tokenizer import Subwords, load_subwords


class RawShard(NamedTuple):
    """What :class:`Preprocess` gets."""

    shard: Shard
    """Where it belongs."""
    first_line: int
    """The line of the first pair in the split, counted from 1."""
    pairs: list[tuple[str, str]]
    """Raw text."""


class PlacedShard(NamedTuple):
    """What the later stages get."""

    shard: Shard
    """Where it belongs."""
    before: int
    """How many pairs the shards before it in its split have after preprocessing."""


@dataclass(frozen=True)
class Preprocess:
    """Makes a :class:`TextShard` of raw text."""

    config: PrepareConfig
    """What is done."""
    source_lang: str
    """The language translated from."""
    target_lang: str
    """The language translated into."""

    def __call__(self, raw: RawShard) -> None:
        """Write the text of a shard."""
        split = raw.shard.split
        test = split.startswith("test")
        source_text, target_text = self._test_texts if test else self._texts
        text = TextShard(raw.first_line, len(raw.pairs))
        train = split == "train"
        for line, (raw_source, raw_target) in enumerate(raw.pairs, start=raw.first_line):
            source, target = source_text(raw_source), target_text(raw_target)
            if train and self.config.length_unit == "word":
                reason = drop_reason(source.split(), target.split(), self.config)
                if reason:
                    text.dropped.setdefault(reason, []).append(line)
                    continue
            text.pairs.append((source, target))
            if not train or self.config.valid_every:
                text.references.append(target_text.reference(raw_target))
        text.save(raw.shard.path("text"))

    @cached_property
    def _texts(self) -> tuple[Preprocessor, Preprocessor]:
        return self._preprocessors(published_test=False)

    @cached_property
    def _test_texts(self) -> tuple[Preprocessor, Preprocessor]:
        return self._preprocessors(published_test=True)

    def _preprocessors(self, *, published_test: bool) -> tuple[Preprocessor, Preprocessor]:
        return (
            Preprocessor(self.source_lang, self.config, published_test=published_test),
            Preprocessor(self.target_lang, self.config, published_test=published_test),
        )


def is_validation_pair(position: int, config: PrepareConfig) -> bool:
    """Say whether the training pair at a position, counted from 0, becomes a validation pair."""
    return config.valid_every is not None and (position + 1) % config.valid_every == 0


def training_pairs(placed: PlacedShard, config: PrepareConfig) -> Iterator[tuple[str, str]]:
    """Read the pairs of a shard of ``train`` that stay there."""
    text = TextShard.load(placed.shard.path("text"))
    for position, pair in enumerate(text.pairs, start=placed.before):
        if not is_validation_pair(position, config):
            yield pair


@dataclass(frozen=True)
class CountWords:
    """Counts the words of a shard of ``train``."""

    config: PrepareConfig
    """Which pairs stay in ``train``."""

    def __call__(self, placed: PlacedShard) -> None:
        """Write the counts of a shard."""
        pairs = training_pairs(placed, self.config)
        count_words((side for pair in pairs for side in pair), placed.shard.path("words"))


@dataclass(frozen=True)
class SplitIntoSubwords:
    """Makes an :class:`IdShard` of a :class:`TextShard`.

    A shard of ``train`` gives one of ``valid`` too where that is drawn from it.
    """

    config: PrepareConfig
    """Which pairs are left out or drawn."""
    model: Path
    """The folder of the subword model."""

    def __call__(self, placed: PlacedShard) -> None:
        """Write the ids of a shard."""
        shard, text = placed.shard, TextShard.load(placed.shard.path("text"))
        train = shard.split == "train"
        bounds = self.config if self.config.length_unit == "subword" else None
        kept, drawn = IdShardBuilder(text.dropped), IdShardBuilder({})
        for i, (source, target) in enumerate(text.pairs):
            pieces = self._subwords.split(source), self._subwords.split(target)
            to_valid = train and is_validation_pair(placed.before + i, self.config)
            ids = drawn if to_valid else kept
            reason = drop_reason(*pieces, bounds) if train else None
            if reason:
                ids.drop(text.lines[i], reason)
            else:
                ids.add(*pieces, None if train and not to_valid else text.references[i])
        if train and self.config.valid_every:
            drawn.build().save(shard._replace(split="valid").path("ids"))
        kept.build(drawn=drawn.read).save(shard.path("ids"))

    @cached_property
    def _subwords(self) -> Subwords:
        return load_subwords(self.model, self.config)
