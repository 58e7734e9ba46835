"""fairseq's Transformer with the interface of ours."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from admin_init._utils.validation import PositiveInt, check
from admin_init.errors import AdminInitError
from admin_init.fairseq.architecture import (
    BUILD_ERRORS,
    build,
    complete_options,
    config_from_options,
    placeholder_dictionary,
)
from admin_init.nn import TransformerConfig
from admin_init.translation.search import Hypothesis, checked, length_limits


class FairseqTransformer(nn.Module):
    """An encoder-decoder Transformer of fairseq 0.12.2.

    Args:
        config: Shape of the model. With ``arch``, only the vocabulary size, the padding id, and
            the choice between Post-LN and Admin are used.
        arch: Name of a fairseq architecture, which then sets the shape.
        overrides: fairseq options that replace those of the shape or architecture.

    Raises:
        AdminInitError: fairseq does not have the architecture, option or residual style, or cannot
            build a model from these options.
        ValueError: ``vocabulary_size`` is None.

    Examples:
        >>> config = TransformerConfig(vocabulary_size=100)
        >>> model = FairseqTransformer(config, "transformer_iwslt_de_en", {"encoder_layers": 2})
        >>> source, target_input = torch.randint(4, 100, (2, 8)), torch.randint(4, 100, (2, 9))
        >>> model(source, target_input).shape
        torch.Size([2, 9, 100])
    """

    config: TransformerConfig
    """Shape of the model; that of the encoder if fairseq's encoder and decoder differ."""

    def __init__(
        self,
        config: TransformerConfig,
        arch: str | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if config.vocabulary_size is None:
            raise ValueError("`vocabulary_size` must be given to build a model, but is None.")
        self.options = complete_options(config, arch, overrides or {})
        self.dictionary = placeholder_dictionary(config.vocabulary_size)
        if config.padding_idx != self.dictionary.pad():
            raise AdminInitError(
                f"`padding_idx` is {self.dictionary.pad()} in fairseq, but is {config.padding_idx}."
            )
        try:
            self.model = build(self.options, self.dictionary)
            self.config = config_from_options(self.options, config)
        except BUILD_ERRORS as error:
            reason = " ".join(str(error).split())
            raise AdminInitError(
                f"fairseq's {self.options.arch} cannot be built with these options: {reason}"
            ) from error

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Predict every next target token.

        Args:
            source: Shape (N, S), int64, padded on either side.
            target_input: The target, shifted right: it starts with ``</s>``. Shape (N, T), int64.

        Returns:
            Logits, shape (N, T, V).

        Raises:
            ValueError: A sequence is longer than ``max_positions``.
        """
        self._check(source)
        self._check(target_input)
        lengths = self._lengths(source)
        logits: Tensor = self.model(source, lengths, target_input, return_all_hiddens=False)[0]
        return logits

    def beam_search(
        self,
        source: Tensor,
        *,
        beam_size: PositiveInt = 5,
        length_penalty: float = 1.0,
        max_len_a: float = 0.0,
        max_len_b: int = 200,
    ) -> list[list[Hypothesis]]:
        """Translate a batch of sentences with fairseq's ``SequenceGenerator``.

        The arguments are those of :func:`admin_init.translation.search.beam_search`. As in fairseq,
        ``<s>`` may be generated. Unlike in fairseq, the length limit of each sentence depends on
        its own source, not on the longest source of the batch.

        Returns:
            The hypotheses of each sentence.

        Raises:
            ValueError: An argument is invalid.
            NotFiniteError: The model's logits, and so the scores of a sentence, are not finite.
        """
        check(FairseqTransformer.beam_search, locals())
        limits = length_limits(self.config, source, max_len_a, max_len_b)
        self._check(source)
        training = [module for module in self.modules() if module.training]
        # Created per call: as an attribute, it would add the model to itself as a submodule.
        generator = _Generator(
            [self.model],
            self.dictionary,
            beam_size=beam_size,
            len_penalty=length_penalty,
            max_len_b=int(limits.max()),
            search_strategy=_LimitedSearch(self.dictionary, limits),
        )
        batch = {"src_tokens": source, "src_lengths": self._lengths(source)}
        try:
            with torch.no_grad():
                found = generator.generate([self.model], {"net_input": batch})
        except AssertionError:
            # fairseq asserts that every sentence ends, but without finite scores none does.
            found = [[]]
        finally:
            for module in training:
                module.training = True
        return checked(
            [
                [Hypothesis(one["tokens"], float(one["score"])) for one in sentence]
                for sentence in found
            ]
        )

    def _check(self, tokens: Tensor) -> None:
        length = tokens.shape[1]
        if length > self.config.max_positions:
            raise ValueError(
                "A sequence must have at most `max_positions` = "
                f"{self.config.max_positions} tokens, but has {length}. Build the model with more "
                "positions, or leave the sequence out."
            )

    def _lengths(self, source: Tensor) -> Tensor:
        return source.ne(self.config.padding_idx).sum(dim=1)


class _LimitedSearch(BeamSearch):  # type: ignore[misc]  # fairseq has no types
    """A beam search that forces a sentence to end at its own length limit."""

    def __init__(self, words: Dictionary, limits: Tensor) -> None:
        super().__init__(words)
        self.limits = limits

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor | None,
        prev_output_tokens: Tensor | None = None,
        original_batch_idxs: Tensor | None = None,
    ) -> Any:
        self.full = self.limits[original_batch_idxs] <= step
        lprobs[self.full, :, : self.eos] = -torch.inf
        lprobs[self.full, :, self.eos + 1 :] = -torch.inf
        return super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs)


class _Generator(SequenceGenerator):  # type: ignore[misc]
    """Finishes a sentence at its own limit, even with fewer hypotheses than the beam size."""

    def is_finished(self, step: int, unfin_idx: int, *others: int) -> bool:
        return bool(self.search.full[unfin_idx]) or super().is_finished(step, unfin_idx, *others)
