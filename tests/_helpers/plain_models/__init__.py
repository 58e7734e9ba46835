"""Twelve Post-LN models in plain torch, written as people write them, each with a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from _helpers.plain_models import (
    annotated_transformer,
    bert4rec,
    conformer,
    detr,
    graph_transformer,
    mingpt,
    rms_decoder,
    sasrec,
    sepformer,
    two_tower,
    unet,
    vit,
)

MODELS: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], int]] = {
    "annotated Transformer": (annotated_transformer.build, 10),
    "minGPT, turned Post-LN": (mingpt.build, 4),
    "DETR": (detr.build, 10),
    "Conformer, Post-LN": (conformer.build, 8),
    "SASRec": (sasrec.build, 4),
    "BERT4Rec": (bert4rec.build, 4),
    "SepFormer, dual path": (sepformer.build, 8),
    "two-tower retrieval": (two_tower.build, 8),
    "U-Net with Transformer blocks": (unet.build, 6),
    "ViT, Post-LN": (vit.build, 6),
    "decoder with RMSNorm": (rms_decoder.build, 4),
    "graph Transformer": (graph_transformer.build, 8),
}
"""Each model with the function that builds it, and its number of Post-LN connections."""
