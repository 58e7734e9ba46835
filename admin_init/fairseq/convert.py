"""Conversion of checkpoints between fairseq and this package."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fairseq.data.data_utils import infer_language_pair
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture
from fairseq.utils import split_paths
from pytorch_lightning.__version__ import version
from torch import Tensor, nn

from admin_init._utils.checkpoints import (
    check_weights,
    has_omegas,
    lightning_checkpoint,
    load,
    write_checkpoint,
)
from admin_init.errors import AdminInitError
from admin_init.fairseq.architecture import build, config_from_options, placeholder_dictionary
from admin_init.fairseq.model import FairseqTransformer
from admin_init.fairseq.plain import plain_options
from admin_init.fairseq.weights import from_fairseq, to_fairseq
from admin_init.nn import TransformerConfig
from admin_init.rescale import install_
from admin_init.translation.checkpoint import load_module, probe
from admin_init.translation.declared import build_for, check_positions
from admin_init.translation.module import TranslationModule

TOLERANCE = 1e-4
"""Largest difference of the logits after a conversion, relative to the largest logit."""

_PLAIN = {
    "activation_fn": "relu",
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "base_layers": 0,
    "character_embeddings": False,
    "cross_self_attention": False,
    "layernorm_embedding": False,
    "no_cross_attention": False,
    "no_decoder_final_norm": False,
    "no_scale_embedding": False,
    "no_token_positional_embeddings": False,
    "quant_noise_pq": 0,
    "scale_attn": False,
    "scale_fc": False,
    "scale_heads": False,
    "scale_resids": False,
}
"""Options of fairseq that change the model's function, with the only value that ours supports."""

_DATA = ("data", "source_lang", "target_lang")
_SIDES = ("encoder", "decoder")
_TOKENS = "{}.embed_tokens.weight"
_SAME = ("embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos")
"""Options that fairseq has per stack, but our Transformer only for both stacks together."""


def convert_checkpoint(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> str:
    """Convert a fairseq checkpoint to one of ours, or one of ours to one of fairseq.

    Weights (with omegas) and hyper-parameters are converted; the optimizer's state is not.

    Args:
        source: A ``.pt`` file of ``fairseq-train``, or a ``.ckpt`` file of a
            :class:`~admin_init.translation.module.TranslationModule`.
        destination: Path of the new checkpoint, which is written atomically.

    Returns:
        A description of the new checkpoint.

    Raises:
        AdminInitError: ``source`` is no such checkpoint, or the other library does not support the
            model.
    """
    saved = load(source)
    if isinstance(saved, dict) and "model" in saved and ("cfg" in saved or "args" in saved):
        check_weights(saved["model"], source)
        converted, difference = from_fairseq_checkpoint(saved)
        written = "a checkpoint of ours"
    else:
        converted, difference = to_fairseq_checkpoint(lightning_checkpoint(saved, source))
        written = f"a checkpoint of fairseq's {converted['args'].arch}"
    if not difference <= TOLERANCE:
        raise AdminInitError(
            f"Converting {source} would change the logits by {difference:.1e} of the largest, more "
            f"than {TOLERANCE:.0e}: the model has an option that the other library does not have. "
            "Nothing was written."
        )
    write_checkpoint(converted, destination)
    return f"{written}, logits differ by {difference:.1e} of the largest"


def from_fairseq_checkpoint(saved: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Convert a checkpoint of ``fairseq-train`` to one of a ``TranslationModule``.

    Returns:
        The checkpoint, and the largest relative difference of the logits.

    Raises:
        AdminInitError: Our Transformer does not support an option of the model.
    """
    cfg = saved.get("cfg") or {}
    given = saved.get("args") or cfg.get("model")
    if given is None:
        raise AdminInitError("The checkpoint has no options (`args` or `cfg`) to build a model of.")
    model, options = _fairseqs_model(_namespace(given), saved)
    config = config_from_options(
        options,
        TransformerConfig(
            vocabulary_size=model.encoder.embed_tokens.num_embeddings,
            residual="admin" if has_omegas(saved["model"]) else "post",
        ),
    )
    module = TranslationModule(config).eval()
    module.transformer.load_state_dict(from_fairseq(model.state_dict()))
    history = (saved.get("optimizer_history") or [{}])[-1]
    iterator = (saved.get("extra_state") or {}).get("train_iterator") or {}
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "datamodule_hyper_parameters": _data(_namespace(saved.get("args") or cfg.get("task"))),
        "pytorch-lightning_version": version,
        "epoch": iterator.get("epoch", 0),
        "global_step": history.get("num_updates", 0),
    }
    return checkpoint, _difference(module.transformer, model, config)


def to_fairseq_checkpoint(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Convert a checkpoint of a ``TranslationModule`` to one for fairseq's generation.

    Returns:
        The checkpoint, and the largest relative difference of the logits.

    Raises:
        AdminInitError: fairseq does not support the model.
    """
    module = load_module(checkpoint)
    theirs: Any = module.transformer
    if not isinstance(theirs, FairseqTransformer):
        weights = to_fairseq(theirs.state_dict())
        # In fairseq, the closed forms of Admin differ from Admin only in the omegas.
        residual = "admin" if has_omegas(weights) else module.config.residual
        # The initialization is over; the weights have it.
        config = replace(
            module.config, residual=residual, initialization="xavier", branch_scale=1.0
        )
        theirs = FairseqTransformer(config).eval()
        if has_omegas(weights):
            install_(theirs)
        theirs.model.load_state_dict(weights)
    weights = theirs.model.state_dict()
    options = vars(theirs.options) | dict.fromkeys(_DATA)
    if has_omegas(weights):
        # The plugin's architecture. Without `admin_profiled`, it would profile the model.
        options |= {"arch": "transformer_admin", "admin_profiled": True}
    converted = {
        "args": Namespace(
            **options | checkpoint.get("datamodule_hyper_parameters", {}),
            task="translation",
            criterion="label_smoothed_cross_entropy",
            label_smoothing=module.label_smoothing,
        ),
        "model": weights,
        "optimizer_history": [
            {
                "num_updates": checkpoint.get("global_step", 0),
                "criterion_name": "LabelSmoothedCrossEntropyCriterion",
                "lr_scheduler_state": {},
                "optimizer_name": "FairseqAdam",
            }
        ],
        "last_optimizer_state": None,
        "extra_state": {},
    }
    return converted, _difference(module.transformer, theirs.model, module.config)


def _fairseqs_model(
    options: Namespace, saved: Mapping[str, Any]
) -> tuple[TransformerModel, Namespace]:
    """Build the model of a checkpoint, and complete the options that it was saved with."""
    weights = saved["model"]
    options = plain_options(options)
    base_architecture(options)
    _refuse(vars(options), weights)

    def built() -> TransformerModel:
        model = build(options, placeholder_dictionary(len(weights[_TOKENS.format("encoder")])))
        if has_omegas(weights):
            install_(model)
        return model

    try:
        check_positions(vars(options), weights)
        # fairseq's own `load_state_dict` knows the names of all versions before.
        model = build_for(weights, built, TransformerModel.load_state_dict)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).replace("\n", " ")
        arch = getattr(options, "arch", "model")
        raise AdminInitError(f"This {arch} is not fairseq's Transformer: {reason}") from error
    return model.eval(), options


def _refuse(options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    problems = [
        f"`{name}` is {options[name]!r}, ours has {plain!r}"
        for name, plain in _PLAIN.items()
        if options.get(name) not in (None, plain)
    ] + [
        f"`encoder_{name}` is {options[f'encoder_{name}']!r} and `decoder_{name}` is "
        f"{options[f'decoder_{name}']!r}, ours has one for both"
        for name in _SAME
        if options[f"encoder_{name}"] != options[f"decoder_{name}"]
    ]
    tokens = [weights.get(_TOKENS.format(side)) for side in _SIDES]
    sizes = sorted({len(embedding) for embedding in tokens if embedding is not None})
    if len(sizes) != 1:
        problems.append(f"the vocabularies have {sizes} tokens, ours has one size")
    if problems:
        raise AdminInitError(f"Our Transformer cannot be fairseq's: {'; '.join(problems)}.")


def _data(task: Namespace) -> dict[str, str]:
    """Return the folder of the data and the languages, as far as they are known."""
    known = {key: value for key in _DATA if (value := getattr(task, key, None))}
    if "data" not in known:
        return {}
    folder = split_paths(known["data"])[0]
    if len(known) < len(_DATA) and Path(folder).is_dir():
        languages = dict(zip(_DATA[1:], infer_language_pair(folder), strict=True))
        known = {key: value for key, value in languages.items() if value} | known
    return known | {"data": folder}


def _difference(ours: nn.Module, theirs: TransformerModel, config: TransformerConfig) -> float:
    def forward(source: Tensor, target_input: Tensor) -> Tensor:
        lengths = torch.full((len(source),), source.shape[1])
        logits: Tensor = theirs(source, lengths, target_input, return_all_hiddens=False)[0]
        return logits

    before, after = probe(ours, config), probe(forward, config)
    return float((after - before).abs().max() / before.abs().max())


def _namespace(value: Any) -> Namespace:
    return value if isinstance(value, Namespace) else Namespace(**(value or {}))
