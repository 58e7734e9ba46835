"""Small configs of Hugging Face's models, made from the names of their attributes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PretrainedConfig

V = 50
_LAYERS, _D, _HEADS, _PATCHES, _SIDE = 2, 32, 4, 4, 64

_TIMM = {
    "model_type": "resnet",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "embedding_size": 8,
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
"""In place of a backbone from a package that is not installed."""

# By attribute: needed, or in the way of a small model, whatever the family.
_GIVEN: dict[str, Any] = {
    "prediction_length": 4,
    "context_length": 8,
    "lags_sequence": [1, 2],
    "num_time_features": 1,
    "attention_window": 4,
    "decoder_n_points": 2,
    "num_denoising": 0,
}
# What cannot be told from a name: by model type.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "opt": {"do_layer_norm_before": False},
    "xmod": {"default_language": "en_XX"},
    "mobilebert": {"normalization_type": "layer_norm"},
    "esm": {"pad_token_id": 1, "mask_token_id": 2, "vocab_size": V},
}

_Rules = list[tuple[str, Callable[[int], int]]]

# What a name stands for; the first pattern that fits counts.
_COUNTS: _Rules = [
    (r"(token_id|token_index|token_ids)$", lambda v: v if v < V else 40 + v % 10),
    (r"^type_vocab_size$", lambda v: v),
    (r"vocab_size|codebook_size|num_embeddings$", lambda v: V),
    (r"(experts_per_tok|topk_group|moe_topk|moe_k|num_shared_experts)$", lambda v: min(v, 2)),
    (r"(num_experts|_experts|n_routed_experts)$", lambda v: min(v, 4)),
    (r"^n_group$", lambda v: 1),
    (r"(interval|frequency|step|replace|kernel|chunk|window)", lambda v: v),
    (r"(^|_)(layers|n_layer|depth|num_blocks|num_stages)$", lambda v: min(v, _LAYERS)),
    (r"^(max_(\w+_)?position_embeddings|n_positions|max_\w+_positions)$", lambda v: min(v, 64)),
    (r"(num_queries|num_query_tokens|num_latents|num_labels)$", lambda v: min(v, 6)),
]
_WIDTHS: _Rules = [
    (r"(key_value_heads|kv_heads|num_kv|_n_groups|n_kv)", lambda v: min(v, _HEADS // 2)),
    (r"(heads|n_head|num_head)$", lambda v: min(v, _HEADS)),
    (r"(head_dim|d_kv|d_head|dim_head|head_size)$", lambda v: min(v, _D // _HEADS)),
    (r"(intermediate|ffn|mlp_dim|d_ff|d_inner|n_inner|feedforward)", lambda v: min(v, 48)),
    (
        r"(hidden_size|d_model|embed_dim|n_embd|hidden_dim|embedding_size|emb_dim|embedding_dim"
        r"|projection_dim|hidden_dimension|d_embed|output_dim|proj_dim|lora_rank)$",
        lambda v: min(v, _D),
    ),
]
_RANDOM = re.compile(r"drop|mask_\w+_prob|apply_spec_augment|replace_prob")


def small(config: PretrainedConfig, *, narrow: bool) -> dict[str, Any]:
    """Return what to build a config of the same kind with, for a model of two layers.

    Args:
        config: The default config.
        narrow: Whether its layers are made narrow, too.
    """
    changed: dict[str, Any] = {}
    given = vars(config)
    names = set(inspect.signature(type(config)).parameters) & set(given)
    for name in sorted(names | set(config.sub_configs)):
        value = given.get(name)
        if isinstance(value, PretrainedConfig):
            changed[name] = _part(value, narrow)
        elif (new := _value(name, value, given, narrow)) is not value:
            changed[name] = new
    return changed | _EXCEPTIONS.get(config.model_type, {})


def _part(config: PretrainedConfig, narrow: bool) -> dict[str, Any]:
    if config.model_type in ("timm_backbone", "timm_wrapper"):
        return _TIMM
    part = {"model_type": config.model_type, **small(config, narrow=narrow)}
    features = getattr(config, "out_features", None)
    whole = not {"num_hidden_layers", "num_layers"} & set(part)
    return part | ({"out_features": features} if features and whole else {})


def _value(name: str, value: Any, given: Mapping[str, Any], narrow: bool) -> Any:
    new = _GIVEN.get(name, value)
    if _RANDOM.search(name):
        new = False if value is True else 0.0 if isinstance(value, float) else value
    elif isinstance(value, list | tuple):
        if name == "depths":
            new = type(value)(min(depth, 1) for depth in value)
        elif name == "num_heads":
            new = type(value)(2 for _ in value)
        elif name == "image_size":
            new = type(value)(_SIDE for _ in value)
    elif type(value) is int and name not in _GIVEN:
        patch = given.get("patch_size")
        if name == "image_size":
            return _PATCHES * patch if isinstance(patch, int) and patch > 8 else _SIDE
        for pattern, size in _COUNTS + (_WIDTHS if narrow else []):
            if re.search(pattern, name):
                return size(value)
    return new
