"""Batches of about the same number of tokens, and of sentences of about the same length."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from admin_init.errors import CorpusError
from admin_init.translation.data.dictionary import Dictionary

_MULTIPLE = 8
"""Of pairs in a batch. In bfloat16 oneDNN compiles a product for every number of rows, and keeps
what it compiled."""

Sizes = npt.NDArray[np.integer[Any]]
Indices = Sequence[int] | npt.NDArray[np.int64]


class TranslationBatch(NamedTuple):
    """Sentence pairs, padded to rectangles. All int64.

    N sentences, S and T the lengths of the longest source and target.
    """

    source: Tensor
    """The source's ids. *Shape:* (N, S)."""
    target_input: Tensor
    """What the decoder reads: the target moved right, after ``</s>``. *Shape:* (N, T)."""
    target: Tensor
    """What the decoder is to predict: the target, up to ``</s>``. *Shape:* (N, T)."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    """Where the pairs stand in their split. *Shape:* (N,)."""


def collate(
    index: Indices,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    left_pad_source: bool = False,
) -> TranslationBatch:
    """Pad sentence pairs into a batch.

    Args:
        index: Where the pairs stand in their split.
        sources: The ids of each source, ``</s>`` at the end. *Shape:* (size,) each.
        targets: The ids of each target, ``</s>`` at the end. *Shape:* (size,) each.
        left_pad_source: Whether the padding of the source comes before it, as by default in
            fairseq, and not after it.
    """
    eos = torch.full((1,), Dictionary.eos)
    return TranslationBatch(
        source=_pad(sources, "left" if left_pad_source else "right"),
        target_input=_pad([torch.cat([eos, target[:-1]]) for target in targets], "right"),
        target=_pad(targets, "right"),
        index=torch.tensor(index),
    )


def _pad(sentences: Sequence[Tensor], side: str) -> Tensor:
    return pad_sequence(
        list(sentences), batch_first=True, padding_value=Dictionary.pad, padding_side=side
    )


def token_batches(
    source_sizes: Sizes,
    target_sizes: Sizes,
    max_tokens: int,
    *,
    rng: np.random.Generator | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Group the sentence pairs of a split into batches.

    Pairs are sorted by the length of their longer side, those of one length by how much longer the
    source is, and cut into batches of which neither side, padding included, exceeds ``max_tokens``
    (fairseq's ``--max-tokens``, which there bounds the larger side too). A batch of more than eight
    pairs has a multiple of eight (fairseq's ``--required-batch-size-multiple``), but for the last.

    Args:
        source_sizes: The length of each source, ``</s>`` included. *Shape:* (pairs,).
        target_sizes: The length of each target, ``</s>`` included. *Shape:* (pairs,).
        max_tokens: The most tokens of a side of a batch: its rows times its longest sentence.
        rng: Shuffles the pairs of equal lengths, and then the batches. How many batches there are
            does not depend on it. None for a fixed order, that of the lengths.

    Returns:
        The indices of each batch's pairs.

    Raises:
        CorpusError: A sentence alone exceeds ``max_tokens``.
    """
    if not len(source_sizes):
        return []
    longest = _longest(source_sizes, target_sizes, max_tokens)
    order = _sorted(longest, source_sizes, target_sizes, rng)
    batches = np.split(order, _ends(longest, max_tokens)[:-1])
    if rng is not None:
        rng.shuffle(batches)
    return batches


def number_of_batches(source_sizes: Sizes, target_sizes: Sizes, max_tokens: int) -> int:
    """Count the batches of :func:`token_batches` without making them.

    Raises:
        CorpusError: A sentence alone exceeds ``max_tokens``.
    """
    return len(_ends(_longest(source_sizes, target_sizes, max_tokens), max_tokens))


def _longest(source_sizes: Sizes, target_sizes: Sizes, max_tokens: int) -> Sizes:
    longest = np.maximum(source_sizes, target_sizes)
    if (too_long := np.flatnonzero(longest > max_tokens)).size:
        raise CorpusError(
            f"max_tokens is {max_tokens}, but {too_long.size} sentence pairs are longer: the first "
            f"is number {too_long[0]} with {longest[too_long[0]]} tokens, the longest has "
            f"{longest.max()}. Raise max_tokens, or prepare the corpus with a smaller max_length."
        )
    return longest


def _sorted(
    longest: Sizes, source_sizes: Sizes, target_sizes: Sizes, rng: np.random.Generator | None
) -> npt.NDArray[np.int64]:
    # The excess rises for one length and falls for the next, so that a batch across the two does
    # not hold the shortest targets of one beside the shortest sources of the other.
    excess = np.subtract(source_sizes, target_sizes, dtype=np.int32)
    np.negative(excess, out=excess, where=longest % 2 == 1)
    shuffle = [] if rng is None else [rng.integers(2**16, size=len(longest), dtype=np.uint16)]
    return _lexsort([*shuffle, excess, longest])


def _lexsort(keys: Sequence[npt.NDArray[np.integer[Any]]]) -> npt.NDArray[np.int64]:
    """Find the order of numpy's ``lexsort``, several times as fast where the numbers are small.

    Numpy sorts numbers much faster than it finds their order. So each element becomes a number: its
    keys in the higher bits, the last key in the highest, and its index in the lowest. Where they
    need more than 63 bits, it is numpy's own function that sorts.

    >>> months, days = np.array([5, 2, 5, 2]), np.array([30, 14, 1, 3])
    >>> _lexsort([days, months]).tolist()
    [3, 1, 2, 0]

    Args:
        keys: The numbers to sort by, of which the last counts most. *Shape:* (elements,) each.
    """
    number = len(keys[0])
    least = [int(key.min()) for key in keys]
    bits = [(int(key.max()) - low).bit_length() for key, low in zip(keys, least, strict=True)]
    index_bits = number.bit_length()
    if sum(bits) + index_bits > 63:  # as of 100 million pairs of up to 1,023 tokens
        return np.lexsort(keys)
    packed = np.zeros(number, np.int64)
    for key, low, width in reversed([*zip(keys, least, bits, strict=True)]):
        packed <<= width
        packed += key
        packed -= low
    packed <<= index_bits
    packed |= np.arange(number, dtype=np.uint32)
    packed.sort()
    packed &= 2**index_bits - 1
    return packed


def _ends(longest: Sizes, max_tokens: int) -> list[int]:
    """Return where each batch ends, of pairs sorted by length: where the next do not fit."""
    up_to = np.bincount(longest).cumsum().tolist()  # the number of pairs of at most each length
    ends, begin, shortest = [], 0, 0
    while begin < len(longest):
        while up_to[shortest] <= begin:
            shortest += 1
        length = shortest
        while length < len(up_to) and begin + max_tokens // max(length, 1) >= up_to[length]:
            length += 1
        if length < len(up_to):
            rows = max(max_tokens // length, up_to[length - 1] - begin)
            begin += rows - rows % _MULTIPLE if rows > _MULTIPLE else rows
        else:
            begin = len(longest)
        ends.append(begin)
    return ends
