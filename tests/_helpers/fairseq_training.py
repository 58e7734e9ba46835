"""The command line of a short training by fairseq, with Admin."""

from pathlib import Path
from typing import Any

SIZES = {"encoder-layers": 2, "decoder-layers": 3}
for side in ("encoder", "decoder"):
    SIZES |= {f"{side}-embed-dim": 16, f"{side}-ffn-embed-dim": 32, f"{side}-attention-heads": 2}
TRAINING: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 0.01,
    "max-tokens": 200,
    "dropout": 0,
    "criterion": "label_smoothed_cross_entropy",
    "label-smoothing": 0.1,
    "num-workers": 0,
    "seed": 3,
}
FLAGS = ["--share-all-embeddings", "--cpu", "--no-epoch-checkpoints", "--disable-validation"]


def training(data: Path, saved: Path, *more: Any) -> list[Any]:
    arch = ["--arch", "transformer_admin_iwslt_de_en"]
    settings = [word for key, value in (SIZES | TRAINING).items() for word in (f"--{key}", value)]
    return ["train", data, *arch, *settings, *FLAGS, "--save-dir", saved, *more]
