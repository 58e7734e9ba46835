"""Beam search with the stopping rule and the scores of fairseq's SequenceGenerator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from admin_init._utils.validation import Bound, NonNegativeFloat, NonNegativeInt, PositiveInt, check
from admin_init.errors import AdminInitError, NotFiniteError
from admin_init.nn import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of the beam search, see :func:`beam_search`.

    Raises:
        AdminInitError: A value is out of its range.

    Examples:
        >>> SearchConfig(beam_size=4, length_penalty=0.6)
        SearchConfig(beam_size=4, length_penalty=0.6, max_len_a=0.0, max_len_b=200)
    """

    beam_size: PositiveInt = 5
    """Number of hypotheses per sentence; 1 for greedy search."""

    length_penalty: Annotated[float, Bound("from -10 to 10", lambda value: abs(value) <= 10)] = 1.0
    """Exponent alpha of the normalization score / length ** alpha, from -10 to 10. Outside this
    range, scores of long translations would overflow or underflow in float32."""

    max_len_a: NonNegativeFloat = 0.0
    """The maximum translation length is `max_len_a` * source length + `max_len_b` tokens."""

    max_len_b: NonNegativeInt = 200
    """Constant term of the maximum translation length, in tokens; see `max_len_a`."""

    def __post_init__(self) -> None:
        check(type(self), vars(self))


class Hypothesis(NamedTuple):
    """One translation of a sentence."""

    tokens: Tensor
    """Token ids, ending in ``</s>``, int64. *Shape:* (length,)."""

    score: float
    """Sum of the tokens' log-probabilities (natural logarithm) / length ** length_penalty."""


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    *,
    beam_size: PositiveInt = 5,
    length_penalty: float = 1.0,
    max_len_a: float = 0.0,
    max_len_b: int = 200,
    eos: int = 2,
    forbidden: Sequence[int] = (0,),
) -> list[list[Hypothesis]]:
    """Translate a batch of sentences by beam search.

    Each step looks at the 2 * ``beam_size`` best continuations of a sentence. Those among the first
    ``beam_size`` that end in ``</s>`` become hypotheses; the best ``beam_size`` that do not end
    stay in the beam. A sentence is finished when it has ``beam_size`` hypotheses or has reached its
    length limit. Its translation does not depend on the other sentences of the batch.

    Args:
        model: The model. It is in eval mode during the search.
        source: Sentences that end in ``</s>``, padded on either side, int64. *Shape:* (N, S).
        beam_size: Size of the beam and number of hypotheses per sentence; 1 for greedy search.
        length_penalty: Exponent of the length, ``</s>`` included, that divides the score. Values
            above 1 favour long translations.
        max_len_a: See ``max_len_b``.
        max_len_b: The translation of a source of S tokens has at most
            ``max_len_a * S + max_len_b`` tokens, and fewer than the model's ``max_positions``. S
            includes ``</s>``; the length of the translation does not.
        eos: Token id of ``</s>``. Decoding begins and ends with it.
        forbidden: Token ids that are never generated, in addition to padding. Default: ``<s>``.

    Returns:
        The hypotheses of each sentence, best first. There are fewer than ``beam_size`` if no more
        fit into the length limit.

    Raises:
        AdminInitError: An argument is out of its range; the message names it.
        NotFiniteError: The model's logits, and so the scores of a sentence, are not finite.
    """
    check(beam_search, locals())
    limits = length_limits(model.config, source, max_len_a, max_len_b)
    if eos in forbidden:
        raise AdminInitError(f"`forbidden` must not hold `eos` = {eos}: no translation could end.")
    vocabulary = torch.arange(model.output_proj.out_features, device=source.device)
    is_eos = vocabulary == eos
    is_banned = torch.isin(
        vocabulary, vocabulary.new_tensor([model.config.padding_idx, *forbidden])
    )
    banned, banned_at_first = is_banned.nonzero()[:, 0], (is_banned | is_eos).nonzero()[:, 0]

    finished: list[list[Hypothesis]] = [[] for _ in source]
    active = list(range(len(source)))  # sentence of each row in the tensors below
    tokens = source.new_full((len(source), 1, 1), eos)  # (rows, beam, length); the beam starts at 1
    totals = torch.zeros(len(source), 1, device=source.device)  # log-probabilities, (rows, beam)
    with _eval_mode(model):
        encoded = model.encode(source)
        cache = model.new_cache()
        while active:
            beam, length = tokens.shape[1:]
            longer = (limits >= length).tolist()
            logits = model.decode(tokens[:, :, -1].reshape(-1, 1), encoded, cache)[:, 0].float()
            # In place: allocating another tensor would take longer than the computation.
            log_probs = torch.log_softmax(logits, dim=-1, out=logits)
            log_probs.index_fill_(1, banned_at_first if length == 1 else banned, -torch.inf)
            log_probs = log_probs.view(len(active), beam, -1)
            if not all(longer):
                log_probs.masked_fill_(((limits < length)[:, None] & ~is_eos)[:, None], -torch.inf)

            # The best of a sentence are among the best of each of its hypotheses.
            best, newest = log_probs.topk(min(2 * beam_size, len(vocabulary)))
            scores = (totals[:, :, None] + best).flatten(1)
            scores, candidates = scores.topk(min(2 * beam_size, scores.shape[1]))
            parents = candidates // best.shape[2]
            newest = newest.flatten(1).gather(1, candidates)

            ends = newest == eos
            rows, ranks = (ends & (scores != -torch.inf))[:, :beam_size].nonzero(as_tuple=True)
            prefixes = tokens[rows, parents[rows, ranks], 1:]
            ended = torch.cat([prefixes, newest[rows, ranks, None]], dim=1)
            ended_scores = scores[rows, ranks] / length**length_penalty
            for row, *hypothesis in zip(rows.tolist(), ended, ended_scores.tolist(), strict=True):
                if len(finished[active[row]]) < beam_size:
                    finished[active[row]].append(Hypothesis(*hypothesis))

            kept = [
                row
                for row, sentence in enumerate(active)
                if longer[row] and len(finished[sentence]) < beam_size
            ]
            active = [active[row] for row in kept]
            going_on = torch.tensor(kept, dtype=torch.int64, device=source.device)
            # A sentence with too few candidates fills its beam with some of probability 0.
            scores = scores.masked_fill(ends, -torch.inf)[going_on]
            totals, ranks = scores.topk(min(beam_size, scores.shape[1]))
            parents = parents[going_on].gather(1, ranks)
            newest = newest[going_on].gather(1, ranks)
            tokens = torch.cat([tokens[going_on[:, None], parents], newest[:, :, None]], dim=2)
            limits = limits[going_on]
            cache.reorder_target_((going_on[:, None] * beam + parents).flatten())
            if len(kept) < len(longer):
                cache.reorder_source_(going_on)
    return checked(finished)


def checked(found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Sort the hypotheses of each sentence, best first.

    Raises:
        NotFiniteError: A sentence has no hypothesis, or a score is NaN.
    """
    for sentence, hypotheses in enumerate(found):
        if not hypotheses or any(math.isnan(score) for _, score in hypotheses):
            raise NotFiniteError(
                f"Sentence {sentence} of the batch has no finite score: the model's logits are NaN "
                "or infinite. Use a checkpoint from before training diverged."
            )
        hypotheses.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
    return found


def length_limits(
    config: TransformerConfig, source: Tensor, max_len_a: float, max_len_b: int
) -> Tensor:
    """Compute the length limit of each translation.

    Args:
        config: Configuration of the model.
        source: Source sentences, int64. *Shape:* (N, S).
        max_len_a: See :func:`beam_search`.
        max_len_b: See :func:`beam_search`.

    Returns:
        Maximum number of tokens of each translation, int64. *Shape:* (N,).

    Raises:
        AdminInitError: A limit is below 1.
    """
    if source.dim() != 2:
        raise ValueError(f"`source` must have the shape (N, S), but has {tuple(source.shape)}.")
    lengths = source.ne(config.padding_idx).sum(dim=1).double()
    longest = config.max_positions - 1
    limits = (max_len_a * lengths + min(max_len_b, longest)).clamp(max=longest).long()
    if (limits < 1).any():
        raise AdminInitError(
            "A translation must have room for at least one token, but has none for a source of "
            f"{int(lengths.min())} tokens, with `max_len_a` = {max_len_a}, `max_len_b` = "
            f"{max_len_b} and the model's `max_positions` = {config.max_positions}."
        )
    return limits


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
