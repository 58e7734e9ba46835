from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from admin_init.errors import CorpusError
from admin_init.translation.data.batching import Sizes, collate, number_of_batches, token_batches

Lengths = list[tuple[int, int]]
SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=120)


def as_arrays(sizes: Lengths) -> tuple[Sizes, Sizes]:
    source, target = np.array(sizes, dtype=np.int32).T
    return source, target


def shapes(batches: list[Any], *sides: Sizes) -> list[tuple[int, ...]]:
    return sorted(tuple(side[batch].max() * len(batch) for side in sides) for batch in batches)


@settings(deadline=None)
@given(SIZES, st.integers(40, 200), st.integers(0, 3))
def test_every_pair_is_in_one_batch_and_no_batch_is_too_big(
    sizes: Lengths, max_tokens: int, seed: int
) -> None:
    source, target = as_arrays(sizes)
    batches = token_batches(source, target, max_tokens, rng=np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) * source[batch].max() <= max_tokens
        assert len(batch) * target[batch].max() <= max_tokens


@settings(deadline=None)
@given(SIZES, st.integers(40, 200))
def test_shuffling_changes_neither_the_number_nor_the_shapes(
    sizes: Lengths, max_tokens: int
) -> None:
    source, target = as_arrays(sizes)
    fixed = token_batches(source, target, max_tokens)
    shuffled = token_batches(source, target, max_tokens, rng=np.random.default_rng(5))
    assert shapes(fixed, source, target) == shapes(shuffled, source, target)
    assert number_of_batches(source, target, max_tokens) == len(fixed)


@settings(deadline=None)
@given(SIZES, st.integers(40, 200))
def test_no_batch_has_room_for_the_next_pairs(sizes: Lengths, max_tokens: int) -> None:
    """For one more of fewer than eight pairs; of others, which come in eights, for eight more."""
    source, target = as_arrays(sizes)
    batches = token_batches(source, target, max_tokens)
    longest = np.maximum(source, target)[np.concatenate(batches)]
    assert (np.diff(longest) >= 0).all()
    end = 0
    for batch in batches[:-1]:
        end += len(batch)
        more = 1 if len(batch) < 8 else 8
        assert len(batch) % more == 0
        if end + more <= len(longest):
            assert (len(batch) + more) * longest[end + more - 1] > max_tokens


def test_pairs_of_a_batch_are_alike() -> None:
    source, target = lengths_as_in_multi30k(500)
    longest = np.maximum(source, target)
    excess = np.where(longest % 2, target - source, source - target)
    order = np.concatenate(token_batches(source, target, 512))
    assert order.tolist() == np.lexsort((excess, longest)).tolist()


@pytest.mark.parametrize("seed", [None, 1])
def test_batches_do_not_depend_on_how_pairs_are_sorted(seed: int | None) -> None:
    source, target = lengths_as_in_multi30k(500)

    def batches(scale: int) -> list[list[int]]:
        rng = None if seed is None else np.random.default_rng(seed)
        made = token_batches(scale * source, scale * target, scale * 512, rng=rng)
        return [batch.tolist() for batch in made]

    assert batches(3**9) == batches(1)  # in which length and excess have no room in one number


def lengths_as_in_multi30k(number: int = 29_000) -> tuple[Sizes, Sizes]:
    """Log-normal lengths with the moments of Multi30k En-De in 4,000 subwords."""
    covariance = [[0.309**2, 0.864 * 0.309 * 0.343], [0.864 * 0.309 * 0.343, 0.343**2]]
    logs = np.random.default_rng(0).multivariate_normal([2.757, 2.803], covariance, number)
    source, target = np.clip(np.exp(logs).round(), 4, 62).astype(np.int32).T
    return source, target


@pytest.mark.parametrize("max_tokens", [1024, 4096])
def test_less_than_5_percent_is_padding(max_tokens: int) -> None:
    source, target = lengths_as_in_multi30k()
    batches = token_batches(source, target, max_tokens, rng=np.random.default_rng(1))
    padded = sum(len(b) * (source[b].max() + target[b].max()) for b in batches)
    assert 1 - (source.sum() + target.sum()) / padded < 0.05
    assert np.mean([len(b) * target[b].max() for b in batches]) > 0.85 * max_tokens


def test_the_order_follows_the_generator() -> None:
    source, target = lengths_as_in_multi30k(2000)

    def order(seed: tuple[int, int]) -> list[list[int]]:
        batches = token_batches(source, target, 512, rng=np.random.default_rng(seed))
        return [batch.tolist() for batch in batches]

    assert order((1, 0)) == order((1, 0))
    for other in ((1, 1), (2, 0)):
        assert [sorted(b) for b in order((1, 0))] != [sorted(b) for b in order(other)]
        assert {tuple(sorted(b)) for b in order((1, 0))} != {tuple(sorted(b)) for b in order(other)}
    fixed = [batch.tolist() for batch in token_batches(source, target, 512)]
    assert fixed == [batch.tolist() for batch in token_batches(source, target, 512)]
    longest = [max(source[batch].max(), target[batch].max()) for batch in fixed]
    assert longest == sorted(longest)


def test_without_pairs_there_are_no_batches() -> None:
    nothing = np.array([], dtype=np.int32)
    assert token_batches(nothing, nothing, 100) == []
    assert number_of_batches(nothing, nothing, 100) == 0


@pytest.mark.parametrize("group", [token_batches, number_of_batches])
def test_sentences_that_are_too_long_are_named(group: Callable[..., Any]) -> None:
    source, target = np.array([3, 9, 3, 12]), np.array([3, 3, 3, 3])
    with pytest.raises(
        CorpusError, match=r"`max_tokens` is 8, but 2 sentence pairs .* number 1 with 9 .* has 12"
    ):
        group(source, target, 8)
    assert len(token_batches(source, target, 12)) == 3


@pytest.mark.parametrize("left_pad_source", [False, True])
def test_collate(left_pad_source: bool) -> None:
    sources = [torch.tensor([10, 11, 2]), torch.tensor([12, 2])]
    targets = [torch.tensor([20, 2]), torch.tensor([21, 22, 23, 2])]
    batch = collate([7, 3], sources, targets, left_pad_source=left_pad_source)
    assert batch.source.tolist() == [[10, 11, 2], [1, 12, 2] if left_pad_source else [12, 2, 1]]
    assert batch.target.tolist() == [[20, 2, 1, 1], [21, 22, 23, 2]]
    assert batch.target_input.tolist() == [[2, 20, 1, 1], [2, 21, 22, 23]]
    assert batch.index.tolist() == [7, 3]
    assert all(part.dtype == torch.int64 for part in batch)
