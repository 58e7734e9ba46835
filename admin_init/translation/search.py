"""Beam search, with the stopping rule and the scores of fairseq's SequenceGenerator."""

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
    """How translations are searched for, see :func:`beam_search`.

    Raises:
        AdminInitError: A value is out of its range.
    """

    beam_size: PositiveInt = 5
    """Number of hypotheses per sentence; 1 for greedy search."""

    length_penalty: Annotated[float, Bound("from -10 to 10", lambda value: abs(value) <= 10)] = 1.0
    """Exponent of the length that scores are divided by, from -10 to 10: beyond, scores of long
    translations leave the range of float32."""

    max_len_a: NonNegativeFloat = 0.0
    """Tokens that a translation may have per source token."""

    max_len_b: NonNegativeInt = 200
    """Tokens that it may have in addition."""

    def __post_init__(self) -> None:
        check(type(self), vars(self))


class Hypothesis(NamedTuple):
    """One translation of a sentence."""

    tokens: Tensor
    """Token ids up to and with ``</s>``, shape (length,), int64."""

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
    """Translate a batch of sentences; greedy search where ``beam_size`` is 1.

    At every step, the 2 * ``beam_size`` best continuations of a sentence are looked at. The first
    ``beam_size`` of them become hypotheses where they end in ``</s>``; the best that do not end
    stay in the beam. A sentence that has ``beam_size`` hypotheses, or is as long as it may get,
    leaves the batch. What it is translated to does not depend on the rest of its batch.

    Args:
        model: The model, which is put into eval mode meanwhile.
        source: Sentences that end in ``</s>``, padded on either side, shape (N, S), int64.
        beam_size: Number of continuations that are followed, and of hypotheses, per sentence.
        length_penalty: Exponent of the length, ``</s>`` included, that scores are divided by; above
            1 favours long translations.
        max_len_a: Tokens that a translation may have per source token; see ``max_len_b``.
        max_len_b: A source of S tokens is translated to at most ``max_len_a * S + max_len_b``
            tokens, and to less than the model's ``max_positions``. S counts ``</s>``, the length of
            the translation does not.
        eos: Token id of ``</s>``, which decoding begins and ends with.
        forbidden: Token ids that, like padding, are never produced; ``<s>`` by default.

    Returns:
        The hypotheses of each sentence, best first; fewer than ``beam_size`` where there are no
        more that are short enough.

    Raises:
        AdminInitError: An argument makes no search; the message says which.
        NotFiniteError: The scores of a sentence are not finite, as the model's logits are not.
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
    active = list(range(len(source)))  # the sentences that the rows of what follows belong to
    tokens = source.new_full((len(source), 1, 1), eos)  # (rows, beam, length); at first beam is 1
    totals = torch.zeros(len(source), 1, device=source.device)  # log-probabilities, (rows, beam)
    with _eval_mode(model):
        encoded = model.encode(source)
        cache = model.new_cache()
        while active:
            beam, length = tokens.shape[1:]
            longer = (limits >= length).tolist()
            logits = model.decode(tokens[:, :, -1].reshape(-1, 1), encoded, cache)[:, 0].float()
            # In place: to allocate as much again would take longer than to compute it.
            log_probs = torch.log_softmax(logits, dim=-1, out=logits)
            log_probs.index_fill_(1, banned_at_first if length == 1 else banned, -torch.inf)
            log_probs = log_probs.view(len(active), beam, -1)
            if not all(longer):
                log_probs.masked_fill_(((limits < length)[:, None] & ~is_eos)[:, None], -torch.inf)

            # The best of a sentence are among the best of its hypotheses.
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
            # A sentence whose candidates are too few fills its beam with some of no probability.
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
    """Sort the hypotheses of each sentence of a batch, the best first.

    Raises:
        NotFiniteError: A sentence has none, or a score is not finite.
    """
    for sentence, hypotheses in enumerate(found):
        if not hypotheses or any(math.isnan(score) for _, score in hypotheses):
            raise NotFiniteError(
                f"Sentence {sentence} of the batch has no finite score: the model's logits are NaN "
                "or infinite. Look for the step at which training diverged."
            )
        hypotheses.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
    return found


def length_limits(
    config: TransformerConfig, source: Tensor, max_len_a: float, max_len_b: int
) -> Tensor:
    """Compute how many tokens the translation of each sentence may have: (N,), int64.

    Args:
        config: Of the model.
        source: Shape (N, S), int64.
        max_len_a: See :func:`beam_search`.
        max_len_b: See :func:`beam_search`.

    Raises:
        AdminInitError: There is no room for a token.
    """
    if source.dim() != 2:
        raise ValueError(f"`source` must have the shape (N, S), but has {tuple(source.shape)}.")
    lengths = source.ne(config.padding_idx).sum(dim=1).double()
    longest = config.max_positions - 1
    limits = (max_len_a * lengths + min(max_len_b, longest)).clamp(max=longest).long()
    if (limits < 1).any():
        raise AdminInitError(
            "A translation must have room for one token, but `max_len_a` = "
            f"{max_len_a}, `max_len_b` = {max_len_b} and the model's `max_positions` = "
            f"{config.max_positions} leave a source of {int(lengths.min())} tokens none."
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
