import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from admin_init.errors import CorpusError
from admin_init.translation.data import loaders
from admin_init.translation.data.databin import IndexedDataset, IndexedDatasetBuilder
from admin_init.translation.data.loaders import ParallelDataset, ResumableLoader, TokenBatchSampler


@pytest.fixture
def pairs(tmp_path: Path) -> ParallelDataset:
    rng = np.random.default_rng(0)
    for side in ("source", "target"):
        with IndexedDatasetBuilder(tmp_path / side, 100) as builder:
            for size in rng.integers(1, 12, size=100):
                ids = [*rng.integers(4, 100, size=size), 2]
                builder.extend(np.array(ids), np.array([size + 1]))
    return ParallelDataset(IndexedDataset(tmp_path / "source"), IndexedDataset(tmp_path / "target"))


def sampler(pairs: ParallelDataset, **changed: Any) -> TokenBatchSampler:
    return TokenBatchSampler(pairs, max_tokens=60, **changed)


def take(loader: ResumableLoader, number: int | None = None) -> list[list[int]]:
    taken: list[list[int]] = []
    for batch in loader:
        taken.append(batch.index.tolist())
        if len(taken) == number:
            break
    return taken


def test_an_item_is_a_batch_of_pairs(pairs: ParallelDataset) -> None:
    batch = pairs[[5, 9]]
    for row, i in enumerate([5, 9]):
        size = len(pairs.target[i])
        assert torch.equal(batch.target[row, :size], pairs.target[i])
        assert torch.equal(batch.source[row, : len(pairs.source[i])], pairs.source[i])


def test_every_epoch_has_every_pair_once_in_another_order(pairs: ParallelDataset) -> None:
    loader = ResumableLoader(sampler(pairs))
    epochs = [take(loader) for _ in range(3)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(100))
        assert len(epoch) == len(loader)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs == [take(ResumableLoader(sampler(pairs, epoch=i))) for i in range(3)]
    assert epochs[0] != take(ResumableLoader(sampler(pairs, seed=2)))


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("after", [0, 2])
def test_a_new_loader_goes_on_where_another_stood(
    pairs: ParallelDataset, before: int, after: int
) -> None:
    undisturbed = ResumableLoader(sampler(pairs))
    expected = take(undisturbed) + take(undisturbed)
    number = len(undisturbed)
    for stop in (1, number - 1, number, number + 3):
        first = ResumableLoader(sampler(pairs), before)
        seen = take(first, min(stop, number))
        seen += take(first, stop - number) if stop > number else []
        resumed = ResumableLoader(sampler(pairs), after)
        resumed.load_state_dict(first.state_dict())
        while len(seen) < len(expected):
            seen += take(resumed)
        assert seen == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_off_iteration_is_gone_on_with(pairs: ParallelDataset, num_workers: int) -> None:
    loader = ResumableLoader(sampler(pairs), num_workers)
    assert take(loader, 3) + take(loader) == take(ResumableLoader(sampler(pairs)))


def test_an_epoch_may_be_shorter(pairs: ParallelDataset) -> None:
    short = sampler(pairs)
    short.epoch_length = 3
    loader = ResumableLoader(short)
    full = [take(ResumableLoader(sampler(pairs, epoch=i))) for i in range(2)]
    assert [take(loader, 3), take(loader, 3)] == [epoch[:3] for epoch in full]


def test_one_epoch_is_over_at_its_end(pairs: ParallelDataset) -> None:
    loader = ResumableLoader(sampler(pairs, epoch=3, one_epoch=True))
    assert take(loader) == take(ResumableLoader(sampler(pairs, epoch=3)))
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (3, len(loader))
    assert loader.sampler.place == (4, 0)
    assert take(loader) == []
    resumed = ResumableLoader(sampler(pairs, epoch=3, one_epoch=True))
    resumed.load_state_dict(state)
    assert take(resumed) == []


@pytest.mark.parametrize("replicas", [2, 3])
def test_ranks_get_as_many_batches_and_none_twice(pairs: ParallelDataset, replicas: int) -> None:
    whole = {tuple(b) for b in take(ResumableLoader(sampler(pairs)))}
    shards = [
        take(ResumableLoader(sampler(pairs, num_replicas=replicas, rank=rank)))
        for rank in range(replicas)
    ]
    assert {len(shard) for shard in shards} == {len(whole) // replicas}
    batches = [tuple(batch) for shard in shards for batch in shard]
    assert len(set(batches)) == len(batches)
    assert set(batches) <= whole


def test_the_place_is_the_same_on_every_rank(pairs: ParallelDataset) -> None:
    loaders = [ResumableLoader(sampler(pairs, num_replicas=2, rank=rank)) for rank in (0, 1)]
    expected = take(ResumableLoader(sampler(pairs, num_replicas=2, rank=1)))
    for loader in loaders:
        take(loader, 2)
    resumed = ResumableLoader(sampler(pairs, num_replicas=2, rank=1))
    resumed.load_state_dict(loaders[0].state_dict())
    assert take(resumed) == expected[2:]


def test_other_batches_than_before_are_warned_of(pairs: ParallelDataset) -> None:
    state = ResumableLoader(sampler(pairs)).state_dict()
    with pytest.warns(UserWarning, match="seed 1, but .* the seed is 2: .* other batches"):
        ResumableLoader(sampler(pairs, seed=2)).load_state_dict(state)
    with pytest.warns(UserWarning, match=f"with {len(sampler(pairs))} batches per epoch"):
        ResumableLoader(TokenBatchSampler(pairs, max_tokens=40)).load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ResumableLoader(sampler(pairs)).load_state_dict(state)


def test_a_place_behind_the_end_of_an_epoch_is_the_next_epoch(pairs: ParallelDataset) -> None:
    """As where a run resumes with larger batches, or on more devices."""
    long, short = TokenBatchSampler(pairs, max_tokens=40), sampler(pairs)
    assert len(short) < len(long)
    for _ in range(len(long) - 1):
        long.advance()
    with pytest.warns(UserWarning, match="other batches"):
        short.load_state_dict(long.state_dict())
    assert len(list(short)) == len(short)
    assert short.state_dict()["epoch"] == 1


def test_other_sentences_than_before_are_refused(pairs: ParallelDataset, tmp_path: Path) -> None:
    state = ResumableLoader(sampler(pairs)).state_dict()
    data = tmp_path / "target.bin"
    data.write_bytes(data.read_bytes()[:-4] + b"\5\0\2\0")
    changed = ParallelDataset(pairs.source, IndexedDataset(tmp_path / "target"))
    with pytest.raises(CorpusError, match=r"other sentences than .*source and .*target have now"):
        ResumableLoader(sampler(changed)).load_state_dict(state)
    del state["checksum"]  # as in older checkpoints
    ResumableLoader(sampler(changed)).load_state_dict(state)


def test_loading_leaves_the_random_state_alone(pairs: ParallelDataset) -> None:
    state = torch.get_rng_state()
    take(ResumableLoader(sampler(pairs)))
    take(ResumableLoader(sampler(pairs), 1), 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_ranks_than_batches_are_refused(pairs: ParallelDataset) -> None:
    with pytest.raises(CorpusError, match="gives 1 training batches, but there are 2 devices"):
        TokenBatchSampler(pairs, max_tokens=10_000, num_replicas=2)


def test_sides_of_different_data_bins_are_refused(pairs: ParallelDataset, tmp_path: Path) -> None:
    with IndexedDatasetBuilder(tmp_path / "other", 100) as builder:
        builder.extend(np.array([2]), np.array([1]))
    with pytest.raises(CorpusError, match=r"source has 100 sentences, but .*other has 1"):
        ParallelDataset(pairs.source, IndexedDataset(tmp_path / "other"))


def test_a_loader_is_silent_about_a_parent_that_has_died(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: told.append(kind))
    monkeypatch.setattr(loaders, "end_with_parent", lambda: None)
    loaders.enter_loader(0)
    for kind in (ConnectionResetError, BrokenPipeError, EOFError, ValueError):
        sys.excepthook(kind, kind(), None)
    assert told == [ValueError]
