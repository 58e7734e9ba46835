"""A small Lightning module and its Trainer, for the tests of AdminInit."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from admin_init import find_sites


def encoder(layers: int = 3, dropout: float = 0.1, **kwargs: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True, **kwargs)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def module(lightning: ModuleType = pl, **parts: Any) -> Any:
    """A LightningModule that keeps every kind of state that a profiling pass could disturb."""

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = parts.pop("model", None) or encoder()
            self.norm = nn.BatchNorm1d(16)
            self.mean_loss = torchmetrics.MeanMetric()
            self.outputs: list[Tensor] = []
            self.steps = 0

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.model(x).flatten(0, 1))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            if "spy" in parts:
                parts["spy"](self, batch, batch_idx)
            loss = (self(batch[0]) - 1).square().mean()
            self.steps += 1
            self.outputs.append(loss.detach())
            self.mean_loss.update(loss.detach())
            self.log("loss", loss)
            self.log_dict({"mean": self.mean_loss})
            if self.logger is not None:
                self.logger.log_metrics({"direct": loss.item()}, step=self.steps)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
            return [optimizer], [schedule]

    lightning.seed_everything(1, verbose=False)
    return Module()


def data(count: int = 32) -> DataLoader[Any]:
    inputs = torch.randn(count, 5, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs), batch_size=8)


def trainer(lightning: ModuleType = pl, **kwargs: Any) -> Any:
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(**{**defaults, **kwargs})


def omegas(model: nn.Module) -> list[Tensor]:
    return [
        omega.detach().clone() for site in find_sites(model) if (omega := site.omega) is not None
    ]


def first_omegas(model: nn.Module) -> list[float]:
    return [float(omega[0]) for omega in omegas(model)]


def with_validation(model: Any) -> Any:
    type(model).validation_step = lambda self, batch, batch_idx: None
    return model
