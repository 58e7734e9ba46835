"""Batches with similar numbers of tokens, from sentences of similar length."""

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
"""Divisor of the number of pairs in a batch. In bfloat16, oneDNN compiles and keeps a kernel for
every number of rows, so there should be few of them."""

Sizes = npt.NDArray[np.integer[Any]]
Indices = Sequence[int] | npt.NDArray[np.int64]


class TranslationBatch(NamedTuple):
    """A batch of padded sentence pairs.

    All tensors are int64. N is the number of pairs; S and T are the lengths of the longest source
    and the longest target.
    """

    source: Tensor
    """Ids of the sources. *Shape:* (N, S)."""
    target_input: Tensor
    """Input of the decoder: the targets, shifted right, after ``</s>``. *Shape:* (N, T)."""
    target: Tensor
    """Expected output of the decoder: the targets, ending in ``</s>``. *Shape:* (N, T)."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    """Index of each pair in its split. *Shape:* (N,)."""


def collate(
    index: Indices,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    left_pad_source: bool = False,
) -> TranslationBatch:
    """Pad sentence pairs into a batch.

    Args:
        index: Index of each pair in its split.
        sources: Ids of each source, ending in ``</s>``. *Shape:* (size,) each.
        targets: Ids of each target, ending in ``</s>``. *Shape:* (size,) each.
        left_pad_source: Whether to pad sources on the left, the default in fairseq, instead of on
            the right.

    Returns:
        The batch.

    Examples:
        >>> sentences = [torch.tensor([4, 5, 2]), torch.tensor([6, 2])]
        >>> batch = collate([0, 1], sentences, sentences)
        >>> batch.target.tolist()
        [[4, 5, 2], [6, 2, 1]]
        >>> batch.target_input.tolist()
        [[2, 4, 5], [2, 6, 1]]
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

    Pairs are sorted by the length of their longer side, then by the difference of the two lengths,
    and cut into batches. Neither side of a batch, padding included, exceeds ``max_tokens``, as with
    fairseq's ``--max-tokens``. In a batch of more than eight pairs their number is a multiple of
    eight (fairseq's ``--required-batch-size-multiple``), except in the last batch.

    Args:
        source_sizes: Length of each source, ``</s>`` included. *Shape:* (pairs,).
        target_sizes: Length of each target, ``</s>`` included. *Shape:* (pairs,).
        max_tokens: Maximum number of tokens in each side of a batch: the number of pairs times the
            length of the longest sentence.
        rng: Random generator that shuffles pairs of equal lengths, and then the batches. The number
            of batches does not depend on it. None to sort the batches by length.

    Returns:
        The indices of the pairs in each batch.

    Raises:
        CorpusError: A single sentence exceeds ``max_tokens``.

    Examples:
        >>> sizes = np.array([3, 9, 4, 8])
        >>> [batch.tolist() for batch in token_batches(sizes, sizes, max_tokens=18)]
        [[0, 2], [3, 1]]
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
    """Count the batches of :func:`token_batches` without building them.

    Raises:
        CorpusError: A single sentence exceeds ``max_tokens``.
    """
    return len(_ends(_longest(source_sizes, target_sizes, max_tokens), max_tokens))


def _longest(source_sizes: Sizes, target_sizes: Sizes, max_tokens: int) -> Sizes:
    longest = np.maximum(source_sizes, target_sizes)
    if (too_long := np.flatnonzero(longest > max_tokens)).size:
        raise CorpusError(
            f"`max_tokens` is {max_tokens}, but {too_long.size} sentence pairs are longer: the "
            f"first is number {too_long[0]} with {longest[too_long[0]]} tokens, the longest has "
            f"{longest.max()}. Raise `max_tokens`, or prepare the corpus with a smaller "
            "`max_length`."
        )
    return longest


def _sorted(
    longest: Sizes, source_sizes: Sizes, target_sizes: Sizes, rng: np.random.Generator | None
) -> npt.NDArray[np.int64]:
    # The excess rises for even lengths and falls for odd ones. Otherwise a batch across two lengths
    # would hold the shortest targets of one and the shortest sources of the other.
    excess = np.subtract(source_sizes, target_sizes, dtype=np.int32)
    np.negative(excess, out=excess, where=longest % 2 == 1)
    shuffle = [] if rng is None else [rng.integers(2**16, size=len(longest), dtype=np.uint16)]
    return _lexsort([*shuffle, excess, longest])


def _lexsort(keys: Sequence[npt.NDArray[np.integer[Any]]]) -> npt.NDArray[np.int64]:
    """Compute ``np.lexsort(keys)``, several times faster for small numbers.

    NumPy sorts numbers much faster than it computes their order. So each element is packed into one
    number: the keys in the higher bits, with the last key highest, and the index in the lowest
    bits. If that takes more than 63 bits, ``np.lexsort`` is called.

    Args:
        keys: The sort keys, integers; the last one is the primary key. *Shape:* (elements,) each.

    Examples:
        >>> months, days = np.array([5, 2, 5, 2]), np.array([30, 14, 1, 3])
        >>> _lexsort([days, months]).tolist()
        [3, 1, 2, 0]
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
    """Return the end of each batch of pairs sorted by length; the next pairs would not fit."""
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
