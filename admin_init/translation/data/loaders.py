"""Data loaders; the training loader can resume in the middle of an epoch."""

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
    """The sentence pairs of a split. Indexing it with several indices gives a batch.

    Args:
        source: Data-bin of the source side.
        target: Data-bin of the target side.
        left_pad_source: Whether to pad sources on the left.

    Raises:
        CorpusError: The two sides have different numbers of sentences.
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
                f"{len(target):,}: they belong to different data-bins. Prepare the corpus again."
            )
        self.source = source
        self.target = target
        self.left_pad_source = left_pad_source

    @property
    def checksum(self) -> int:
        """CRC-32 of the sources and of the targets, in one number."""
        return self.source.checksum << 32 | self.target.checksum

    def __str__(self) -> str:
        return f"{self.source.prefix} and {self.target.prefix}"

    def batches(self, max_tokens: int, rng: np.random.Generator | None = None) -> Batches:
        """Group the pairs by :func:`token_batches`."""
        return token_batches(self.source.sizes, self.target.sizes, max_tokens, rng=rng)

    def number_of_batches(self, max_tokens: int) -> int:
        """Count the batches, see :func:`number_of_batches`."""
        return number_of_batches(self.source.sizes, self.target.sizes, max_tokens)

    def __getitem__(self, index: Indices) -> TranslationBatch:
        sources, targets = [self.source[i] for i in index], [self.target[i] for i in index]
        return collate(index, sources, targets, left_pad_source=self.left_pad_source)

    def __len__(self) -> int:
        return len(self.source)


class FixedBatches(Dataset[TranslationBatch]):
    """The batches of a split, sorted by length; Lightning may distribute them over ranks."""

    def __init__(self, pairs: ParallelDataset, max_tokens: int) -> None:
        self._pairs = pairs
        self._batches = pairs.batches(max_tokens)

    def __getitem__(self, index: int) -> TranslationBatch:
        return self._pairs[self._batches[index]]

    def __len__(self) -> int:
        return len(self._batches)


class TokenBatchSampler(DistributedSampler[Any]):
    """Samples the pairs of each training batch, in an order that depends on the epoch.

    Ranks get disjoint, equally many batches. Batches that remain are left out; they differ from
    epoch to epoch. The class derives from ``DistributedSampler`` so that Lightning does not
    distribute the batches a second time.

    Args:
        pairs: The training split.
        max_tokens: Maximum number of tokens in each side of a batch, padding included.
        seed: Random seed of the order.
        num_replicas: Number of ranks.
        rank: This process's rank.
        epoch: First epoch.
        one_epoch: Whether the sampler serves only this epoch, because the next epoch has other
            pairs.

    Raises:
        CorpusError: There are fewer batches than ranks.
    """

    position: int
    """Number of batches of the epoch that have been used. Iteration begins there but does not
    change it, because workers iterate ahead of the batches in use."""
    epoch_length: int
    """Number of batches in an epoch: all of this rank's, unless set to fewer."""

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
            raise CorpusError(f"{pairs} have no sentence pairs. Prepare the corpus again.")
        if not self._length:
            raise CorpusError(
                f"`max_tokens` = {max_tokens} gives {batches} training batches, but there are "
                f"{num_replicas} devices. Lower `max_tokens`, or use fewer devices."
            )

    def advance(self) -> None:
        """Count a batch as used."""
        self.position += 1
        if not self.one_epoch:
            self.epoch, self.position = self.place

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position of the next batch."""
        if self.position >= self.epoch_length:
            return self.epoch + 1, 0
        return self.epoch, self.position

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the epoch follows from the number of used batches.

        Lightning's own count is wrong after a run with ``max_steps`` resumes from a checkpoint
        saved at the end of an epoch.
        """

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the position in it, which are the same on every rank."""
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
        # Older checkpoints have no checksum.
        if state.get("checksum", self.pairs.checksum) != self.pairs.checksum:
            raise CorpusError(
                f"The checkpoint was saved by a run on other sentences than {self.pairs} have now. "
                "Resume with the data-bin of that run, or begin a new run."
            )
        self.epoch, self.position = state["epoch"], state["position"]
        if (state["batches"], state["seed"]) != (len(self), self.seed):
            warnings.warn(
                f"The checkpoint was saved with {state['batches']} batches per epoch and seed "
                f"{state['seed']}, but now there are {len(self)} and the seed is {self.seed}: the "
                "run continues with other batches than without the interruption. To resume "
                "exactly, use the same data, `max_tokens`, `seed` and number of devices.",
                stacklevel=2,
            )
        if not self.one_epoch:
            self.epoch, self.position = self.place  # if epochs were longer than they are now

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        batches = self.pairs.batches(self.max_tokens, rng)
        mine = batches[self.rank :: self.num_replicas]
        return iter(mine[self.position : self.epoch_length])

    def __len__(self) -> int:
        return self._length


def enter_loader(worker: int) -> None:
    """Prepare a loader process: end it, without a traceback, when its parent dies.

    torch has a watchdog for this, but it misses a parent that dies before the watchdog starts.
    """
    end_with_parent()
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        # A thread may be sending a batch to a process that has just died.
        if not issubclass(kind, ConnectionError | EOFError):
            show(kind, error, traceback)

    sys.excepthook = hook


class ResumableLoader(DataLoader[TranslationBatch]):
    """Loads training batches. A new iteration continues after the last used batch.

    Lightning saves and restores the state of the loader. The state is only the sampler's position,
    so a run may resume with another number of workers.

    torchdata's StatefulDataLoader has the same interface, but its state belongs to an iterator.
    Resumed under Lightning 2.6 from a checkpoint of an epoch's last batch, it gives an empty epoch,
    and the run is one epoch short.

    Args:
        sampler: Sampler of the batches.
        num_workers: Number of processes that load batches.
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
        """Return the position after the last used batch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration begin at a saved position."""
        self.sampler.load_state_dict(state)
