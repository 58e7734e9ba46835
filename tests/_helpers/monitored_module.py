"""A small translation model and its Trainer, for the tests of StabilityMonitor."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.data.batching import TranslationBatch


def batches(count: int = 6) -> list[TranslationBatch]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 30, (3, count, 2, 5), generator=generator)
    index = torch.arange(2 * count).view(count, 2)
    return [TranslationBatch(*tokens[:, i], index[i]) for i in range(count)]


def module(lightning: ModuleType = pl, *, spike_at: int | None = None, **parts: Any) -> Any:
    """A translation model with dropout; its loss rises by 5 in the batch called ``spike_at``."""

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            config = TransformerConfig(
                vocabulary_size=30,
                dim=8,
                ffn_dim=16,
                heads=2,
                encoder_layers=1,
                decoder_layers=1,
                residual=parts.get("residual", "post"),
            )
            self.model = parts.get("model") or Transformer(config)
            self.losses: list[float] = []

        def training_step(self, batch: TranslationBatch, batch_idx: int) -> Tensor:
            logits = self.model(batch.source, batch.target_input)
            loss = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten())
            if batch.index[0] == spike_at:
                loss = loss + parts.get("height", 5.0)
            if "spy" in parts:
                parts["spy"](self, batch_idx)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=parts.get("lr", 1e-3))

    lightning.seed_everything(1, verbose=False)
    return Module()


def fit(lightning: ModuleType, model: Any, *callbacks: Any, count: int = 6, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
    }
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = lightning.Trainer(**defaults | settings)
    lightning.seed_everything(2, verbose=False)  # of dropout
    trainer.fit(model, DataLoader(batches(count), batch_size=None), ckpt_path=ckpt_path)
    return trainer


def hooks(model: nn.Module) -> list[Any]:
    return [
        hook
        for m in model.modules()
        for kind in (m._forward_hooks, m._forward_pre_hooks)
        for hook in kind
    ]
