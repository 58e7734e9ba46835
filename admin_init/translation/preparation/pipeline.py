"""The stages of a preparation, one after another: from raw text to a data-bin."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rich.progress import Progress

from admin_init._utils.atomic_files import read_json, write_bytes, write_json
from admin_init._utils.processes import imap_unordered
from admin_init.errors import CorpusError
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import Manifest, Split
from admin_init.translation.preparation.shards import Reading, Shard, TextShard
from admin_init.translation.preparation.stages import (
    CountWords,
    PlacedShard,
    Preprocess,
    RawShard,
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
    """Runs the stages, and skips what an earlier run has left in the workspace."""

    corpus: ParallelCorpus
    """What is prepared."""
    config: PrepareConfig
    """How."""
    workspace: Workspace
    """Where."""
    workers: int
    """How many processes work on shards."""
    shard_size: int
    """How many pairs a shard has."""
    progress: Progress
    """Shows how far the stages are."""

    def run(self, manifest: Manifest) -> dict[str, list[Shard]]:
        """Preprocesses, learns subwords and applies them.

        Args:
            manifest: What was read. Updated in place with the subword training statistics.

        Returns:
            The shards of every split, which now have their ids.

        Raises:
            CorpusError: The corpus gives other pairs than at its first reading, or subwords cannot
                be learned from it.
        """
        shards = {name: self._shards(name, split.read) for name, split in manifest.splits.items()}
        self._preprocess(manifest.splits, shards)
        train = _placed(shards["train"])
        manifest.learned_from = self._learn(train)
        placed = [PlacedShard(s, 0) for name in shards if name != "train" for s in shards[name]]
        self._each(
            "splitting into subwords",
            SplitIntoSubwords(self.config, self.workspace.model),
            "ids",
            [*train, *placed],
        )
        if self.config.valid_every:
            shards["valid"] = [shard._replace(split="valid") for shard in shards["train"]]
        return shards

    def _shards(self, split: str, pairs: int) -> list[Shard]:
        numbers = range(-(-pairs // self.shard_size))
        return [Shard(self.workspace.shards, split, number) for number in numbers]

    def _preprocess(self, splits: dict[str, Split], shards: dict[str, list[Shard]]) -> None:
        missing = {
            name: {shard for shard in shards[name] if not shard.path("text").exists()}
            for name in splits
        }

        def tasks() -> Iterator[RawShard]:
            for name, split in splits.items():
                if missing[name]:
                    yield from self._read(name, split, missing[name])

        job = Preprocess(self.config, self.corpus.source_lang, self.corpus.target_lang)
        self._run("preprocessing", job, tasks(), sum(map(len, missing.values())))

    def _read(self, name: str, split: Split, missing: set[Shard]) -> Iterator[RawShard]:
        reading = Reading(self.corpus.splits[name], self.shard_size)
        for number, pairs in enumerate(reading):
            shard = Shard(self.workspace.shards, name, number)
            if shard in missing:
                yield RawShard(shard, number * self.shard_size + 1, pairs)
        if reading.sha256 != split.sha256:
            raise CorpusError(
                f"{name}: of {split.read:,} pairs, {reading.read:,} came at a second reading, or "
                "they were others. A split must give the same pairs whenever it is iterated."
            )

    def _learn(self, train: list[PlacedShard]) -> dict[str, int]:
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

    def _sentencepiece(self, train: list[PlacedShard]) -> tuple[Subwords, dict[str, int]]:
        pairs = train[-1].before + TextShard.load_head(train[-1].shard.path("text")).kept
        if self.config.valid_every:
            pairs -= pairs // self.config.valid_every
        sample = min(self.config.sample_sentences // 2, pairs)

        def sentences() -> Iterator[str]:
            every = (pair for placed in train for pair in training_pairs(placed, self.config))
            for i, pair in enumerate(every):
                if i * sample // pairs != (i + 1) * sample // pairs:
                    yield from pair

        with self._learning():
            subwords = SentencePiece.learn(sentences(), self.config.vocabulary_size)
        return subwords, {"sentences": 2 * sample, "of": 2 * pairs}

    def _byte_pairs(self, train: list[PlacedShard]) -> tuple[Subwords, dict[str, int]]:
        self._each("counting words", CountWords(self.config), "words", train)
        counted = [placed.shard.path("words") for placed in train]
        with self._learning():
            merged = merge_counts(counted, self.workspace.shards)
            words, distinct = most_frequent(merged, self.config.sample_words)
            subwords = BytePairs.learn(words, self.config.merges)
        return subwords, {"words": len(words), "of": distinct}

    def _each(
        self,
        description: str,
        job: Callable[[PlacedShard], None],
        stage: str,
        shards: list[PlacedShard],
    ) -> None:
        missing = [placed for placed in shards if not placed.shard.path(stage).exists()]
        self._run(description, job, missing, len(missing))

    def _run(
        self, description: str, job: Callable[[Any], None], tasks: Iterable[Any], number: int
    ) -> None:
        step = self.progress.add_task(description, total=number)
        for _ in imap_unordered(job, tasks, min(self.workers, max(number, 1))):
            self.progress.advance(step)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        step = self.progress.add_task("learning subwords", total=None)
        yield
        self.progress.update(step, total=1, completed=1)


def _placed(train: list[Shard]) -> list[PlacedShard]:
    kept = [TextShard.load_head(shard.path("text")).kept for shard in train]
    return [
        PlacedShard(shard, before)
        for shard, before in zip(train, accumulate(kept, initial=0), strict=False)
    ]
