"""Stages of a preparation, each run once for every shard.

A stage reads the file of the stage before it and writes a file of its own. All it needs to know of
other shards is the number of pairs before its own, so shards can run in any order and process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from admin_init.translation.preparation.cleaning import drop_reason
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.preprocessing import Preprocessor
from admin_init.translation.preparation.shards import IdPairs, Shard, TextPairs
from admin_init.translation.preparation.word_counts import count_words
from admin_init.translation.subwords.tokenizer import Subwords, load_subwords


@dataclass(frozen=True)
class Preprocess:
    """Preprocesses the raw text of a shard, and drops training pairs by their words."""

    config: PrepareConfig
    """Settings of the preparation."""
    source_lang: str
    """Language to translate from."""
    target_lang: str
    """Language to translate into."""

    def __call__(self, shard: Shard) -> None:
        """Write the text of a shard, and delete its raw text."""
        train = shard.split == "train"
        source_text, target_text = self._preprocessors[shard.split.startswith("test")]
        raw, text = TextPairs.load(shard.path("raw")), TextPairs()
        for line, raw_source, raw_target in zip(raw.lines, raw.sources, raw.targets, strict=True):
            source, target = source_text(raw_source), target_text(raw_target)
            if train and self.config.length_unit == "word":
                reason = drop_reason(source.split(), target.split(), self.config)
                if reason:
                    text.dropped.setdefault(reason, []).append(line)
                    continue
            text.lines.append(line)
            text.sources.append(source)
            text.targets.append(target)
            if not train or self.config.valid_every:
                text.references.append(target_text.reference(raw_target))
        text.save(shard.path("text"))
        shard.path("raw").unlink()

    @cached_property
    def _preprocessors(self) -> dict[bool, list[Preprocessor]]:
        """The preprocessors of the two languages, by whether the split is a test set."""
        return {
            test: [
                Preprocessor(lang, self.config, published_test=test)
                for lang in (self.source_lang, self.target_lang)
            ]
            for test in (False, True)
        }


def is_validation_pair(position: int, config: PrepareConfig) -> bool:
    """Return whether the training pair at a position, counted from 0, is used for validation."""
    return config.valid_every is not None and (position + 1) % config.valid_every == 0


def training_pairs(shard: Shard, config: PrepareConfig) -> Iterator[tuple[str, str]]:
    """Read the pairs of a shard of ``train``, without those used for validation."""
    text = TextPairs.load(shard.path("text"))
    for i, pair in enumerate(zip(text.sources, text.targets, strict=True), start=shard.before):
        if not is_validation_pair(i, config):
            yield pair


@dataclass(frozen=True)
class CountWords:
    """Counts the words of a shard of ``train``."""

    config: PrepareConfig
    """Settings of the preparation."""

    def __call__(self, shard: Shard) -> None:
        """Write the counts of a shard."""
        pairs = training_pairs(shard, self.config)
        count_words((side for pair in pairs for side in pair), shard.path("words"))


@dataclass(frozen=True)
class SplitIntoSubwords:
    """Splits the text of a shard into subwords, and drops training pairs by their subwords.

    If ``valid`` is drawn from ``train``, a shard of ``train`` also writes a shard of ``valid``.
    """

    config: PrepareConfig
    """Settings of the preparation."""
    model: Path
    """Folder of the subword model."""

    def __call__(self, shard: Shard) -> None:
        """Write the ids of a shard."""
        train = shard.split == "train"
        bounds = self.config if self.config.length_unit == "subword" else None
        text = TextPairs.load(shard.path("text"))
        kept, drawn = IdPairs(dropped=text.dropped), IdPairs()
        for i, line in enumerate(text.lines):
            source, target = map(self._subwords.split, (text.sources[i], text.targets[i]))
            to_valid = train and is_validation_pair(shard.before + i, self.config)
            kept.drawn += to_valid
            pairs = drawn if to_valid else kept
            reason = drop_reason(source, target, bounds) if train else None
            if reason:
                pairs.dropped.setdefault(reason, []).append(line)
                continue
            pairs.append(source, target)
            if to_valid or not train:
                pairs.references.append(text.references[i])
        if train and self.config.valid_every:
            drawn.save(shard._replace(split="valid").path("ids"))
        kept.save(shard.path("ids"))

    @cached_property
    def _subwords(self) -> Subwords:
        return load_subwords(self.model, self.config)
