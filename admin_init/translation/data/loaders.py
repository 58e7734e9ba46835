"""Loaders of batches; the one for training resumes where it stood."""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from admin_init._utils.processes import end_with_parent
from admin_init.errors import CorpusError
from admin_init.translation.data.batching import (
    Indices,
    TranslationBatch,
    collate,
    number_of_batches,
    token_batches,
)
from admin_init.translation.data.databin import IndexedDataset, JoinedDataset

Batches = list[npt.NDArray[np.int64]]


class ParallelDataset(Dataset[TranslationBatch]):
    """The sentence pairs of a split; an item is a batch of them.

    Args:
        source: The data-bin of the source side.
        target: The data-bin of the target side.
        left_pad_source: Whether the padding of the source comes before it.

    Raises:
        CorpusError: The two sides do not have the same number of sentences.
    """

    def __init__(
        self,
        source: IndexedDataset | JoinedDataset,
        target: IndexedDataset | JoinedDataset,
        *,
        left_pad_source: bool = False,
    ) -> None:
        if len(source) != len(target):
            raise CorpusError(
                f"{source.prefix} has {len(source):,} sentences, but {target.prefix} has "
                f"{len(target):,}: they belong to different data-bins. Prepare the corpus anew."
            )
        self.source = source
        self.target = target
        self.left_pad_source = left_pad_source

    @property
    def checksum(self) -> int:
        """Of all sentences of both sides."""
        return self.source.checksum << 32 | self.target.checksum

    def __str__(self) -> str:
        return f"{self.source.prefix} and {self.target.prefix}"

    def batches(self, max_tokens: int, rng: np.random.Generator | None = None) -> Batches:
        """Group the pairs by :func:`token_batches`."""
        return token_batches(self.source.sizes, self.target.sizes, max_tokens, rng=rng)

    def number_of_batches(self, max_tokens: int) -> int:
        """Count them, see :func:`number_of_batches`."""
        return number_of_batches(self.source.sizes, self.target.sizes, max_tokens)

    def __getitem__(self, index: Indices) -> TranslationBatch:
        sources, targets = [self.source[i] for i in index], [self.target[i] for i in index]
        return collate(index, sources, targets, left_pad_source=self.left_pad_source)

    def __len__(self) -> int:
        return len(self.source)


class FixedBatches(Dataset[TranslationBatch]):
    """The batches of a split in the order of their lengths; Lightning may shard them."""

    def __init__(self, pairs: ParallelDataset, max_tokens: int) -> None:
        self._pairs = pairs
        self._batches = pairs.batches(max_tokens)

    def __getitem__(self, index: int) -> TranslationBatch:
        return self._pairs[self._batches[index]]

    def __len__(self) -> int:
        return len(self._batches)


class TokenBatchSampler(DistributedSampler[Any]):
    """The indices of one training batch after another, in an order that depends on the epoch.

    Ranks get disjoint, equally many batches; the remainder is left out, other batches in every
    epoch. It is a ``DistributedSampler`` so that Lightning does not shard it again.

    Args:
        pairs: The training split.
        max_tokens: The most tokens of a side of a batch, padding included.
        seed: Of the order.
        num_replicas: The number of ranks.
        rank: Which of them this is.
        epoch: Where to begin.
        one_epoch: Whether it ends there: the next epoch has other pairs, and a sampler of its own.

    Raises:
        CorpusError: There are fewer batches than ranks.
    """

    position: int
    """How many batches of the epoch have been used. Iterating begins there, and does not move it:
    workers iterate ahead of what is used."""
    epoch_length: int
    """How many batches are used before the next epoch begins: all, unless it is set to fewer."""

    def __init__(
        self,
        pairs: ParallelDataset,
        *,
        max_tokens: int,
        seed: int = 1,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        one_epoch: bool = False,
    ) -> None:
        super().__init__(pairs, num_replicas=num_replicas, rank=rank, seed=seed)
        self.pairs = pairs
        self.max_tokens = max_tokens
        self.epoch = epoch
        self.position = 0
        self.one_epoch = one_epoch
        batches = pairs.number_of_batches(max_tokens)
        self.epoch_length = self._length = batches // num_replicas
        if not batches:
            raise CorpusError(f"{pairs} has no sentence pairs to train on. Prepare it anew.")
        if not self._length:
            raise CorpusError(
                f"max_tokens is {max_tokens}, which gives {batches} training batches, "
                f"but there are {num_replicas} devices. Lower max_tokens, or use fewer devices."
            )

    def advance(self) -> None:
        """Note that a batch has been used."""
        self.position += 1
        if not self.one_epoch:
            self.epoch, self.position = self.place

    @property
    def place(self) -> tuple[int, int]:
        """The epoch and the position of the next batch."""
        if self.position >= self.epoch_length:
            return self.epoch + 1, 0
        return self.epoch, self.position

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the epoch follows from the batches that were used.

        Lightning's own count goes wrong where a run with ``max_steps`` resumes from a checkpoint
        that was saved at the end of an epoch.
        """

    def state_dict(self) -> dict[str, int]:
        """Return the place that has been reached, the same on every rank."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "batches": len(self),
            "seed": self.seed,
            "checksum": self.pairs.checksum,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the position; warn if the batch order has changed.

        Raises:
            CorpusError: The sentences have changed.
        """
        # Older checkpoints do not know.
        if state.get("checksum", self.pairs.checksum) != self.pairs.checksum:
            raise CorpusError(
                f"The checkpoint was saved by a run on other sentences than {self.pairs} has now. "
                "Resume with the data-bin that the run began with, or begin a new run."
            )
        self.epoch, self.position = state["epoch"], state["position"]
        if (state["batches"], state["seed"]) != (len(self), self.seed):
            warnings.warn(
                f"The checkpoint was saved with {state['batches']} batches an epoch and seed "
                f"{state['seed']}, but there are {len(self)} and the seed is {self.seed}: the run "
                "goes on with other batches than it would have. To resume exactly, use the same "
                "data, max_tokens, seed and number of devices.",
                stacklevel=2,
            )
        if not self.one_epoch:
            self.epoch, self.position = self.place  # an epoch was longer

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        batches = self.pairs.batches(self.max_tokens, rng)
        mine = batches[self.rank :: self.num_replicas]
        return iter(mine[self.position : self.epoch_length])

    def __len__(self) -> int:
        return self._length


def enter_loader(worker: int) -> None:
    """Prepare a process that loads batches: it ends when its parent does, and without a word.

    torch watches over that, but not if the parent dies before its watch begins.
    """
    end_with_parent()
    tell = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        # A thread hands batches over, perhaps to a process that has just died.
        if not issubclass(kind, ConnectionError | EOFError):
            tell(kind, error, traceback)

    sys.excepthook = hook


class ResumableLoader(DataLoader[TranslationBatch]):
    """Loads training batches. A new iteration goes on where the last one was left.

    Lightning saves the state of a loader that has one, and restores it. It is the sampler's place
    alone, so a run may resume with another number of workers.

    torchdata's StatefulDataLoader has the same interface, but its place is that of an iterator: a
    checkpoint of an epoch's last batch resumes under Lightning 2.6 with an epoch that is empty, and
    the run is an epoch short.

    Args:
        sampler: Which batches, in which order.
        num_workers: How many processes load them.
    """

    sampler: TokenBatchSampler

    def __init__(self, sampler: TokenBatchSampler, num_workers: int = 0) -> None:
        super().__init__(
            sampler.pairs,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            generator=torch.Generator(),
            worker_init_fn=enter_loader,
        )

    def __iter__(self) -> Iterator[TranslationBatch]:  # type: ignore[override]
        for batch in super().__iter__():
            self.sampler.advance()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the place after the last batch that was handed out."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration begin at a place."""
        self.sampler.load_state_dict(state)
