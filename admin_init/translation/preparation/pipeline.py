"""Sequence of the stages that turn raw text into ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from rich.progress import Progress

from admin_init._utils.atomic_files import read_json, write_bytes, write_json
from admin_init._utils.processes import imap_unordered
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import Manifest
from admin_init.translation.preparation.shards import Shard, TextPairs
from admin_init.translation.preparation.stages import (
    CountWords,
    Preprocess,
    SplitIntoSubwords,
    training_pairs,
)
from admin_init.translation.preparation.word_counts import merge_counts, most_frequent
from admin_init.translation.preparation.workspace import Workspace
from admin_init.translation.subwords.sentencepiece import SentencePiece
from admin_init.translation.subwords.subword_nmt import BytePairs
from admin_init.translation.subwords.tokenizer import SUBWORD_MODELS, Subwords

_LEARNED_FROM = "learned_from.json"


@dataclass
class Pipeline:
    """Runs all stages, and skips the work that an earlier run has finished."""

    config: PrepareConfig
    """Settings of the preparation."""
    workspace: Workspace
    """Workspace with every shard, as raw text or at a later stage."""
    workers: int
    """Number of worker processes."""
    shard_size: int
    """Number of sentence pairs in a shard."""
    progress: Progress
    """Display of the progress."""

    def run(self, manifest: Manifest) -> dict[str, list[Shard]]:
        """Preprocess the raw text, learn subwords and apply them.

        Args:
            manifest: Statistics of the splits. Updated in place with the subword training
                statistics.

        Returns:
            The shards of every split; each now has a file of ids.

        Raises:
            CorpusError: Subwords cannot be learned from the corpus.
        """
        shards = {name: self._shards(name, split.read) for name, split in manifest.splits.items()}
        every = [shard for split in shards.values() for shard in split]
        languages = (manifest.settings[side] for side in ("source_lang", "target_lang"))
        self._each("preprocessing", Preprocess(self.config, *languages), "text", every)
        train = _with_positions(shards["train"])
        manifest.learned_from = self._learn(train)
        others = [shard for shard in every if shard.split != "train"]
        split = SplitIntoSubwords(self.config, self.workspace.model)
        self._each("splitting into subwords", split, "ids", [*train, *others])
        if self.config.valid_every:
            shards["valid"] = [shard._replace(split="valid") for shard in train]
        return shards

    def _shards(self, split: str, pairs: int) -> list[Shard]:
        numbers = range(-(-pairs // self.shard_size))
        return [Shard(self.workspace.shards, split, number) for number in numbers]

    def _learn(self, train: list[Shard]) -> dict[str, int]:
        path = self.workspace.model / SUBWORD_MODELS[self.config.subwords]
        record = self.workspace.model / _LEARNED_FROM
        if not path.exists():
            sentencepiece = self.config.subwords == "sentencepiece"
            learn = self._sentencepiece if sentencepiece else self._byte_pairs
            subwords, learned_from = learn(train)
            write_json(record, learned_from)
            write_bytes(path, subwords.model)
        found: dict[str, int] = read_json(record)
        return found

    def _sentencepiece(self, train: list[Shard]) -> tuple[Subwords, dict[str, int]]:
        pairs = train[-1].before + TextPairs.count(train[-1].path("text"))
        if self.config.valid_every:
            pairs -= pairs // self.config.valid_every
        sample = min(self.config.sample_sentences // 2, pairs)

        def sentences() -> Iterator[str]:
            every = (pair for shard in train for pair in training_pairs(shard, self.config))
            for i, pair in enumerate(every):
                if i * sample // pairs != (i + 1) * sample // pairs:
                    yield from pair

        with self._learning():
            subwords = SentencePiece.learn(sentences(), self.config.vocabulary_size)
        return subwords, {"sentences": 2 * sample, "of": 2 * pairs}

    def _byte_pairs(self, train: list[Shard]) -> tuple[Subwords, dict[str, int]]:
        self._each("counting words", CountWords(self.config), "words", train)
        counted = [shard.path("words") for shard in train]
        with self._learning():
            merged = merge_counts(counted, self.workspace.shards)
            words, distinct = most_frequent(merged, self.config.sample_words)
            subwords = BytePairs.learn(words, self.config.merges)
        return subwords, {"words": len(words), "of": distinct}

    def _each(
        self, description: str, job: Callable[[Shard], None], stage: str, shards: list[Shard]
    ) -> None:
        missing = [shard for shard in shards if not shard.path(stage).exists()]
        step = self.progress.add_task(description, total=len(missing))
        for _ in imap_unordered(job, missing, min(self.workers, max(len(missing), 1))):
            self.progress.advance(step)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        step = self.progress.add_task("learning subwords", total=None)
        yield
        self.progress.update(step, total=1, completed=1)


def _with_positions(train: list[Shard]) -> list[Shard]:
    kept = (TextPairs.count(shard.path("text")) for shard in train)
    return [
        shard._replace(before=before)
        for shard, before in zip(train, accumulate(kept, initial=0), strict=False)
    ]
