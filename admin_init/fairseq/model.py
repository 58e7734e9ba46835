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
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from admin_init.errors import AdminInitError
from admin_init.nn import TransformerConfig
from admin_init.nn.config import Sharing
from admin_init.translation.search import Hypothesis

_NORMALIZE_BEFORE = {"post": False, "admin": False, "pre": True}


class FairseqTransformer(nn.Module):
    """An encoder-decoder Transformer of fairseq 0.12.2.

    Args:
        config: Its shape; with ``arch``, only the size of its vocabulary, its padding and whether
            it is Post-LN with or without Admin.
        arch: One of fairseq's architectures, which then gives the shape.
        overrides: fairseq's options that are to differ from those of the shape.

    Raises:
        AdminInitError: fairseq has no such architecture, option or residual style.
        ValueError: The vocabulary's size is not given, or the options make no model.

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
        self.dictionary = _dictionary(config.vocabulary_size)
        options = _options(config) if arch is None else {}
        self.options = _complete(arch or "transformer", options | (overrides or {}))
        task = SimpleNamespace(source_dictionary=self.dictionary, target_dictionary=self.dictionary)
        cls = ARCH_MODEL_REGISTRY[self.options.arch]
        self.model: TransformerModel = cls.build_model(self.options, task)
        self.config = shape(self.options, config)
        for name, parameter in self.model.encoder.named_parameters():
            # Copies for a fused kernel that is never run: without gradients they stop DDP.
            if name.rpartition(".")[2] in _COPIES:
                parameter.requires_grad_(False)

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Predict every next target token.

        Args:
            source: Shape (N, S), int64, padded on either side.
            target_input: The target, shifted right: it starts with ``</s>``. Shape (N, T), int64.

        Returns:
            Logits, shape (N, T, V).
        """
        logits: Tensor = self.model(source, self._lengths(source), target_input)[0]
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

        The arguments are those of :func:`admin_init.translation.search.beam_search`. Two things
        are fairseq's own: ``<s>`` may be produced, and the limit of the length follows from the
        longest source of the batch, padding included.
        """
        training = [module for module in self.modules() if module.training]
        # Made anew each time: it holds the model, and must not be a part of it. It also leaves
        # the model in eval mode.
        generator = SequenceGenerator(
            [self.model],
            self.dictionary,
            beam_size=beam_size,
            len_penalty=length_penalty,
            max_len_a=max_len_a,
            max_len_b=max_len_b,
        )
        batch = {"src_tokens": source, "src_lengths": self._lengths(source)}
        try:
            with torch.no_grad():
                found = generator.generate([self.model], {"net_input": batch})
        finally:
            for module in training:
                module.training = True
        return [
            [Hypothesis(one["tokens"], float(one["score"])) for one in sentence]
            for sentence in found
        ]

    def _lengths(self, source: Tensor) -> Tensor:
        return source.ne(self.config.padding_idx).sum(dim=1)


_COPIES = frozenset(
    f"{layer}_{kind}"
    for layer in ("in_proj", "out_proj", "fc1", "fc2")
    for kind in ("weight", "bias")
)


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
        activation_dropout=options.activation_dropout,
        residual="pre" if options.encoder_normalize_before else post,
        share_embeddings=sharing,
        positions="learned" if options.encoder_learned_pos else "sinusoidal",
        max_positions=min(options.max_source_positions, options.max_target_positions),
    )


def _options(config: TransformerConfig) -> dict[str, Any]:
    if config.residual not in _NORMALIZE_BEFORE:
        raise AdminInitError(
            f"fairseq's Transformer has the residual styles {', '.join(_NORMALIZE_BEFORE)}, but "
            f"`residual` is {config.residual!r}. Train it with our own, without `fairseq`."
        )
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


def _complete(arch: str, options: dict[str, Any]) -> Namespace:
    # Its subclasses, BART and the non-autoregressive models among them, have forwards of their own.
    known = sorted(name for name, cls in ARCH_MODEL_REGISTRY.items() if cls is TransformerModel)
    if arch not in known:
        raise AdminInitError(f"`arch` must be one of {', '.join(known)}, but is {arch!r}.")
    parser = ArgumentParser()
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    names = vars(parser.parse_args([]))
    if unknown := sorted(options.keys() - names):
        near = get_close_matches(unknown[0], names)
        raise AdminInitError(
            f"fairseq's {arch} has no option {unknown[0]!r}"
            f"{f'; did you mean {near[0]!r}?' if near else '.'}"
        )
    namespace = Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](namespace)
    return namespace


def _dictionary(size: int) -> Any:
    # fairseq asks it for its size and the ids of the specials; the tokens stay with the data.
    dictionary = Dictionary()
    for i in range(size - len(dictionary)):
        dictionary.add_symbol(f"{i}")
    return dictionary
