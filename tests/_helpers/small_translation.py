"""A small translation module, its data and its Trainer."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.search import SearchConfig

PAD = 1


BATCH = TranslationBatch(
    source=torch.tensor([[4, 5, 6, 2], [7, 8, 2, PAD], [9, 2, PAD, PAD]]),
    target_input=torch.tensor([[2, 4, PAD], [2, 5, 6], [2, 7, 8]]),
    target=torch.tensor([[4, 2, PAD], [5, 6, 2], [7, 8, 2]]),
    index=torch.arange(3),
)


def config(**changed: Any) -> TransformerConfig:
    tiny = {
        "dim": 16,
        "ffn_dim": 32,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
    }
    return TransformerConfig(**tiny | changed)


def module(label_smoothing: float = 0.1, **changed: Any) -> TranslationModule:
    torch.manual_seed(0)
    return TranslationModule(
        config(**changed),
        OptimizationConfig(learning_rate=1e-2, warmup_steps=2),
        SearchConfig(beam_size=2, max_len_a=1.0, max_len_b=3),
        label_smoothing=label_smoothing,
    )


def data(folder: Path, max_tokens: int = 300) -> TranslationDataModule:
    return TranslationDataModule(folder, "en", "de", max_tokens=max_tokens)


def trainer(**options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    return pl.Trainer(accelerator="cpu", num_sanity_val_steps=0, **quiet | options)
