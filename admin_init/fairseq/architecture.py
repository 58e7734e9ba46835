"""Build fairseq's Transformer from our configuration and fairseq's options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerModel

from admin_init.errors import AdminInitError
from admin_init.fairseq.plain import NotPlainError
from admin_init.nn import TransformerConfig
from admin_init.nn.config import Sharing
from admin_init.translation.backend import check_fairseq

_NORMALIZE_BEFORE = {"post": False, "admin": False, "admin-share": False, "pre": True}
_REFUSED = {
    "adaptive_softmax_cutoff": "such a model has no logits, but a loss of its own",
    "encoder_embed_path": "embeddings are found by the tokens, which only the data know",
    "decoder_embed_path": "embeddings are found by the tokens, which only the data know",
}
BUILD_ERRORS = (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError)
"""Exceptions that fairseq raises if it cannot build a model from its options."""

_COPIES = frozenset(
    f"{layer}_{kind}"
    for layer in ("in_proj", "out_proj", "fc1", "fc2")
    for kind in ("weight", "bias")
)


def build(options: Namespace, words: Dictionary) -> TransformerModel:
    """Build fairseq's model and freeze its unused parameters.

    Args:
        options: fairseq's options, completed by its architecture.
        words: A dictionary from :func:`placeholder_dictionary`.

    Returns:
        The model.

    Raises:
        AdminInitError: An option that fairseq would run as Python is not a plain value.
    """
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    try:
        model = TransformerModel.build_model(options, task)
    except NotPlainError as error:
        names = [f"`{name}`" for name, value in vars(options).items() if value == error.value]
        raise AdminInitError(f"{', '.join(names) or 'An option'}: {error}") from error
    for name, parameter in model.encoder.named_parameters():
        # Copies for an unused fused kernel; DDP fails on trainable parameters without gradients.
        if name.rpartition(".")[2] in _COPIES:
            parameter.requires_grad_(False)
    return model


def placeholder_dictionary(size: int) -> Dictionary:
    """Create a dictionary of ``size`` ids, special tokens included, with placeholder tokens.

    fairseq's model only needs the size and the ids of the special tokens.
    """
    words = Dictionary()
    for i in range(size - len(words)):
        words.add_symbol(f"{i}")
    return words


def config_from_options(options: Namespace, config: TransformerConfig) -> TransformerConfig:
    """Return ``config`` with the shape from fairseq's options."""
    sharing: Sharing = (
        "all"
        if options.share_all_embeddings
        else "target"
        if options.share_decoder_input_output_embed
        else "none"
    )
    post = "post" if _NORMALIZE_BEFORE.get(config.residual, True) else config.residual
    return replace(
        config,
        dim=options.encoder_embed_dim,
        ffn_dim=options.encoder_ffn_embed_dim,
        heads=options.encoder_attention_heads,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        dropout=options.dropout,
        attention_dropout=options.attention_dropout,
        # Called relu_dropout before fairseq 0.8.
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


def complete_options(
    config: TransformerConfig, arch: str | None, overrides: dict[str, Any]
) -> Namespace:
    """Complete the options from which fairseq builds a model.

    Args:
        config: Shape of the model.
        arch: Name of a fairseq architecture, whose options replace the shape.
        overrides: fairseq options that replace those of the architecture or shape.

    Returns:
        The options.

    Raises:
        AdminInitError: fairseq does not have the residual style, architecture or option, or the
            option is not supported here.
    """
    check_fairseq(config)
    if config.residual not in _NORMALIZE_BEFORE:
        raise AdminInitError(
            f"fairseq's Transformer has the residual styles {', '.join(_NORMALIZE_BEFORE)}, but "
            f"`residual` is {config.residual!r}. Leave out `fairseq` to train our Transformer."
        )
    # Subclasses, such as BART and the non-autoregressive models, override `forward`.
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
