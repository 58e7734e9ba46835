"""fairseq's Transformer behind the interface of ours."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerModel
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from admin_init.errors import AdminInitError
from admin_init.fairseq.plain import NotPlainError
from admin_init.nn import TransformerConfig
from admin_init.nn.config import Sharing
from admin_init.translation.search import Hypothesis, checked, length_limits

_NORMALIZE_BEFORE = {"post": False, "admin": False, "pre": True}
_REFUSED = {
    "adaptive_softmax_cutoff": "such a model has no logits, but a loss of its own",
    "encoder_embed_path": "embeddings are found by the tokens, which only the data know",
    "decoder_embed_path": "embeddings are found by the tokens, which only the data know",
}
_UNBUILT = (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError)
"""Exceptions that fairseq raises if it cannot build a model from its options."""


class FairseqTransformer(nn.Module):
    """An encoder-decoder Transformer of fairseq 0.12.2.

    Args:
        config: Its shape; with ``arch``, only the size of its vocabulary, its padding and whether
            it is Post-LN with or without Admin.
        arch: One of fairseq's architectures, which then gives the shape.
        overrides: fairseq's options that are to differ from those of the shape.

    Raises:
        AdminInitError: fairseq has no such architecture, option or residual style, or cannot build
            a model of these options.
        ValueError: The vocabulary's size is not given.

    Example::

        config = TransformerConfig(vocabulary_size=10_000)
        model = FairseqTransformer(config, "transformer_iwslt_de_en", {"encoder_layers": 12})
        logits = model(source, target_input)
    """

    config: TransformerConfig
    """Its shape; where fairseq's encoder and decoder differ, that of the encoder."""

    def __init__(
        self,
        config: TransformerConfig,
        arch: str | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if config.vocabulary_size is None:
            raise ValueError("`vocabulary_size` must be given to build a model, but is None.")
        self.options = _complete(config, arch, overrides or {})
        self.dictionary = dictionary(config.vocabulary_size)
        if config.padding_idx != self.dictionary.pad():
            raise AdminInitError(
                f"`padding_idx` is {self.dictionary.pad()} in fairseq, but is {config.padding_idx}."
            )
        try:
            self.model = build(self.options, self.dictionary)
            self.config = shape(self.options, config)
        except _UNBUILT as error:
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
        beam_size: int = 5,
        length_penalty: float = 1.0,
        max_len_a: float = 0.0,
        max_len_b: int = 200,
    ) -> list[list[Hypothesis]]:
        """Translate a batch of sentences with fairseq's ``SequenceGenerator``.

        The arguments are those of :func:`admin_init.translation.search.beam_search`. One thing is
        fairseq's own: ``<s>`` may be produced. Another is not: where fairseq limits all lengths by
        the longest source of the batch, each sentence is limited by its own.

        Raises:
            ValueError: An argument makes no search; the message says which.
            NotFiniteError: The scores of a sentence are not finite, as the model's logits are
                not.
        """
        limits = length_limits(self.config, source, max_len_a, max_len_b)
        if beam_size < 1:
            raise ValueError(f"`beam_size` must be at least 1, but is {beam_size}.")
        self._check(source)
        training = [module for module in self.modules() if module.training]
        # Made anew each time: it holds the model, and must not be a part of it. It also leaves
        # the model in eval mode.
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
            # A sentence without a finite score never ends, which fairseq does not expect.
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
    """A beam search in which a sentence that has reached its own limit can but end."""

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
    """Finishes a sentence at its own limit, also with fewer hypotheses than the beam has."""

    def is_finished(self, step: int, unfin_idx: int, *others: int) -> bool:
        return bool(self.search.full[unfin_idx]) or super().is_finished(step, unfin_idx, *others)


_COPIES = frozenset(
    f"{layer}_{kind}"
    for layer in ("in_proj", "out_proj", "fc1", "fc2")
    for kind in ("weight", "bias")
)


def build(options: Namespace, words: Dictionary) -> TransformerModel:
    """Build fairseq's model, with what never trains in it frozen.

    Args:
        options: Of fairseq, those of the architecture included.
        words: From :func:`dictionary`.

    Raises:
        AdminInitError: An option that fairseq would run as Python is no plain value.
    """
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    try:
        model = TransformerModel.build_model(options, task)
    except NotPlainError as error:
        names = [f"`{name}`" for name, value in vars(options).items() if value == error.value]
        raise AdminInitError(f"{', '.join(names) or 'An option'}: {error}") from error
    for name, parameter in model.encoder.named_parameters():
        # Copies for a fused kernel that is never run: without gradients they stop DDP.
        if name.rpartition(".")[2] in _COPIES:
            parameter.requires_grad_(False)
    return model


def dictionary(size: int) -> Dictionary:
    """Make a dictionary of so many ids, the specials included, for what fairseq asks of one.

    That is its size and the specials' ids; the tokens stay with the data.
    """
    words = Dictionary()
    for i in range(size - len(words)):
        words.add_symbol(f"{i}")
    return words


def shape(options: Namespace, config: TransformerConfig) -> TransformerConfig:
    """Return ``config`` with the shape that fairseq's options give."""
    sharing: Sharing = (
        "all"
        if options.share_all_embeddings
        else "target"
        if options.share_decoder_input_output_embed
        else "none"
    )
    post = config.residual if config.residual in ("post", "admin") else "post"
    return replace(
        config,
        dim=options.encoder_embed_dim,
        ffn_dim=options.encoder_ffn_embed_dim,
        heads=options.encoder_attention_heads,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        dropout=options.dropout,
        attention_dropout=options.attention_dropout,
        # The second is what it was called in fairseq before 0.8.
        activation_dropout=options.activation_dropout or getattr(options, "relu_dropout", 0.0),
        residual="pre" if options.encoder_normalize_before else post,
        share_embeddings=sharing,
        positions="learned" if options.encoder_learned_pos else "sinusoidal",
        max_positions=min(options.max_source_positions, options.max_target_positions),
    )


def _options(config: TransformerConfig) -> dict[str, Any]:
    both = {
        "embed_dim": config.dim,
        "ffn_embed_dim": config.ffn_dim,
        "attention_heads": config.heads,
        "normalize_before": _NORMALIZE_BEFORE[config.residual],
        "learned_pos": config.positions == "learned",
    }
    return {
        f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()
    } | {
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "share_all_embeddings": config.share_embeddings == "all",
        "share_decoder_input_output_embed": config.share_embeddings != "none",
        "max_source_positions": config.max_positions,
        "max_target_positions": config.max_positions,
    }


def _complete(config: TransformerConfig, arch: str | None, overrides: dict[str, Any]) -> Namespace:
    if config.residual not in _NORMALIZE_BEFORE:
        raise AdminInitError(
            f"fairseq's Transformer has the residual styles {', '.join(_NORMALIZE_BEFORE)}, but "
            f"`residual` is {config.residual!r}. Train it with our own, without `fairseq`."
        )
    # Its subclasses, BART and the non-autoregressive models among them, have forwards of their own.
    known = sorted(name for name, cls in ARCH_MODEL_REGISTRY.items() if cls is TransformerModel)
    if arch is not None and arch not in known:
        raise AdminInitError(f"`arch` must be one of {', '.join(known)}, but is {arch!r}.")
    parser = ArgumentParser()
    TransformerModel.add_args(parser)
    names = sorted(vars(parser.parse_args([])).keys() - _REFUSED.keys())
    for name in overrides:
        if name in _REFUSED:
            raise AdminInitError(f"`overrides` must not have {name!r}: {_REFUSED[name]}.")
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise AdminInitError(
                f"fairseq's Transformer has no option {name!r}.{hint} It has {', '.join(names)}."
            )
    options = Namespace(
        arch=arch or "transformer", **(_options(config) if arch is None else {}) | overrides
    )
    ARCH_CONFIG_REGISTRY[options.arch](options)
    if config.residual != "post" and (
        options.encoder_normalize_before != _NORMALIZE_BEFORE[config.residual]
    ):
        raise AdminInitError(
            f"`residual` is {config.residual!r}, but `encoder_normalize_before` is "
            f"{options.encoder_normalize_before} in the options of {options.arch}. Give "
            "`encoder_normalize_before` and `decoder_normalize_before` in `overrides`, true for "
            "Pre-LN and false for Post-LN and Admin."
        )
    return options
