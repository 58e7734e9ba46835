"""Checkpoints of fairseq turned into ours, and ours into fairseq's."""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.__version__ import version
from torch import Tensor

from admin_init.errors import AdminInitError
from admin_init.fairseq.model import FairseqTransformer, shape
from admin_init.fairseq.weights import from_fairseq, to_fairseq
from admin_init.nn import TransformerConfig
from admin_init.translation.checkpoint import load_module, read_checkpoint
from admin_init.translation.module import TranslationModule

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
    "relu_dropout": 0.0,
    "scale_attn": False,
    "scale_fc": False,
    "scale_heads": False,
    "scale_resids": False,
}
"""fairseq's options that change what the model computes, and the value that ours computes with."""

_DATA = ("data", "source_lang", "target_lang")
_SAME = ("embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos")
"""Options that fairseq has for the encoder and for the decoder, and ours for both."""


def convert_checkpoint(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> str:
    """Turn a checkpoint of fairseq into one of ours, or one of ours into one of fairseq.

    Weights, omegas included, and hyper-parameters; no optimizer's state.

    Args:
        source: A ``.pt`` of ``fairseq-train``, or a ``.ckpt`` of a
            :class:`~admin_init.translation.module.TranslationModule`.
        destination: Where the other is written, whole or not at all.

    Returns:
        What was written, in words.

    Raises:
        AdminInitError: ``source`` is neither, or the other library has no such model.
    """
    if not Path(source).is_file():
        raise AdminInitError(f"There is no checkpoint at {source}.")
    try:
        saved = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise AdminInitError(
            f"{source} cannot be read as a checkpoint ({type(error).__name__}): it is damaged, or "
            "holds more than tensors and plain values."
        ) from error
    if isinstance(saved, dict) and "model" in saved and ("cfg" in saved or "args" in saved):
        converted, written = ours(saved), "a checkpoint of ours"
    else:
        converted = fairseqs(read_checkpoint(source))
        written = f"a checkpoint of fairseq's {converted['args'].arch}"
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        torch.save(converted, Path(folder) / destination.name)
        os.replace(Path(folder) / destination.name, destination)
    return written


def ours(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what ``fairseq-train`` saves into a checkpoint of a ``TranslationModule``.

    Raises:
        AdminInitError: The model has an option that ours does not have; the message names it.
    """
    cfg = saved.get("cfg") or {}
    options = _namespace(saved.get("args") or cfg.get("model"))
    weights = from_fairseq(saved["model"])
    config = _config(options, weights)
    module = TranslationModule(config)
    if config.residual == "admin":
        missing = {name for name in module.transformer.state_dict() if name.endswith(".omega")}
        # The first of a stack is 1, and a plugin may not have saved it.
        weights = {name: torch.ones(config.dim) for name in missing - weights.keys()} | weights
    module.transformer.load_state_dict(weights)
    task = vars(_namespace(saved.get("args") or cfg.get("task")))
    history = (saved.get("optimizer_history") or [{}])[-1]
    iterator = (saved.get("extra_state") or {}).get("train_iterator", {})
    return {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "datamodule_hyper_parameters": {key: task[key] for key in _DATA if task.get(key)},
        "pytorch-lightning_version": version,
        "epoch": iterator.get("epoch", 0),
        "global_step": history.get("num_updates", 0),
    }


def fairseqs(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Turn a checkpoint of a ``TranslationModule`` into what fairseq loads and generates from.

    Raises:
        AdminInitError: fairseq has no such model.
    """
    module = load_module(checkpoint)
    model: Any = module.transformer
    if isinstance(model, FairseqTransformer):
        weights: dict[str, Tensor] = model.model.state_dict()
    else:
        weights = to_fairseq(model.state_dict())
        # The closed forms of Admin are Admin to fairseq: what differs are the omegas.
        model = FairseqTransformer(
            replace(module.config, residual="admin") if _has_omegas(weights) else module.config
        )
    options = vars(model.options) | dict.fromkeys(_DATA)
    if _has_omegas(weights):
        options |= {"arch": "transformer_admin", "admin_profiled": True}
    return {
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


def _namespace(value: Any) -> Namespace:
    return value if isinstance(value, Namespace) else Namespace(**(value or {}))


def _config(options: Namespace, weights: Mapping[str, Tensor]) -> TransformerConfig:
    given = vars(options)
    problems = [
        f"`{name}` is {given[name]!r}, ours has {plain!r}"
        for name, plain in _PLAIN.items()
        if given.get(name) not in (None, plain)
    ] + [
        f"`encoder_{name}` is {given.get(f'encoder_{name}')!r} and `decoder_{name}` is "
        f"{given.get(f'decoder_{name}')!r}, ours has one for both"
        for name in _SAME
        if given.get(f"encoder_{name}") != given.get(f"decoder_{name}")
    ]
    tokens = [weights.get(f"{side}_embedding.tokens.weight") for side in ("encoder", "decoder")]
    sizes = {len(embedding) for embedding in tokens if embedding is not None}
    if len(sizes) != 1:
        problems.append(f"the vocabularies have {sorted(sizes)} tokens, ours has one size")
    if problems:
        raise AdminInitError(f"Our Transformer cannot be fairseq's: {'; '.join(problems)}.")
    config = TransformerConfig(
        vocabulary_size=sizes.pop(), residual="admin" if _has_omegas(weights) else "post"
    )
    return shape(options, config)


def _has_omegas(weights: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(".omega") for name in weights)
