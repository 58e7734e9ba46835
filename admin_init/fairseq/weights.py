"""Conversion of weights between fairseq's Transformer and ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from admin_init.errors import AdminInitError

_WHOLE = {
    "encoder_embedding.tokens": "encoder.embed_tokens",
    "encoder_embedding.positions": "encoder.embed_positions",
    "encoder.end.norm": "encoder.layer_norm",
    "decoder_embedding.tokens": "decoder.embed_tokens",
    "decoder_embedding.positions": "decoder.embed_positions",
    "decoder.end.norm": "decoder.layer_norm",
    "output_proj": "decoder.output_projection",
}
_IN_A_LAYER = {
    "self_attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.out_proj": ("self_attn.out_proj",),
    "self_attn_residual.norm": ("self_attn_layer_norm",),
    "self_attn_residual.skip": ("self_attn_skip",),
    "cross_attn.q_proj": ("encoder_attn.q_proj",),
    "cross_attn.kv_proj": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross_attn.out_proj": ("encoder_attn.out_proj",),
    "cross_attn_residual.norm": ("encoder_attn_layer_norm",),
    "cross_attn_residual.skip": ("encoder_attn_skip",),
    "ffn.fc1": ("fc1",),
    "ffn.fc2": ("fc2",),
    "ffn_residual.norm": ("final_layer_norm",),
    "ffn_residual.skip": ("ffn_skip",),
}
"""Names of our modules, and of the fairseq modules whose weights each of them concatenates."""

_FUSED = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")
_MARKS = re.compile(r"(encoder|decoder)\.(version|embed_positions\._float_tensor)")


def from_fairseq(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and stack the weights of a ``TransformerModel`` for our ``Transformer``.

    Args:
        weights: A ``state_dict`` of fairseq, with or without omegas.

    Returns:
        A ``state_dict`` of ours.

    Raises:
        AdminInitError: Our Transformer has no place for some of the weights.
    """
    rest = {
        name: weight
        for name, weight in weights.items()
        if not _FUSED.fullmatch(name) and not _MARKS.fullmatch(name)
    }
    ours = {}
    for name, parts in _names(rest):
        ours[name] = torch.cat([rest.pop(part) for part in parts])
    if rest:
        raise AdminInitError(
            f"Our Transformer has no place for {len(rest)} of fairseq's weights, the first "
            f"`{next(iter(rest))}`: the model has a layer that ours does not have."
        )
    return ours


def to_fairseq(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and split the weights of our ``Transformer`` for fairseq's ``TransformerModel``.

    Args:
        weights: A ``state_dict`` of ours: Post-LN with or without omegas, or Pre-LN.

    Returns:
        A ``state_dict`` of fairseq.

    Raises:
        AdminInitError: fairseq's Transformer has no place for some of the weights.
    """
    theirs: dict[str, Tensor] = {}
    for name, weight in weights.items():
        parts = _parts(name)
        if parts is None:
            raise AdminInitError(
                f"fairseq's Transformer has no place for `{name}`: only Post-LN, with or without "
                "omegas, and Pre-LN can be converted."
            )
        for part, rows in zip(parts, weight.chunk(len(parts)), strict=True):
            theirs[part] = rows.clone()
    for side in ("encoder", "decoder"):
        # Without it, fairseq assumes a checkpoint of 2018 and drops the last layer norm.
        theirs[f"{side}.version"] = torch.tensor([3.0])
        if f"{side}.embed_positions.weight" not in theirs:
            theirs[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
    return theirs


def _parts(name: str) -> list[str] | None:
    """Return fairseq's names of the weights that ``name`` concatenates, or None."""
    module, _, kind = name.rpartition(".")
    if module in _WHOLE:
        return [f"{_WHOLE[module]}.{kind}"]
    layer = re.fullmatch(r"((?:encoder|decoder)\.layers\.\d+)\.(.*)", module)
    if layer is None or layer[2] not in _IN_A_LAYER:
        return None
    return [f"{layer[1]}.{part}.{kind}" for part in _IN_A_LAYER[layer[2]]]


def _names(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, list[str]]]:
    """Yield each of our names with fairseq's names of the weights that it concatenates."""
    whole = {theirs: ours for ours, theirs in _WHOLE.items()}
    inside = {parts[0]: ours for ours, parts in _IN_A_LAYER.items()}
    for name in list(weights):
        module, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"((?:encoder|decoder)\.layers\.\d+)\.(.*)", module)
        if module in whole:
            ours = f"{whole[module]}.{kind}"
        elif layer is not None and layer[2] in inside:
            ours = f"{layer[1]}.{inside[layer[2]]}.{kind}"
        else:
            continue
        parts = _parts(ours)
        if parts is not None and all(part in weights for part in parts):
            yield ours, parts
