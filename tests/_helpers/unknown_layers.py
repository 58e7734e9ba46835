"""A LightningModule with layers of no known family."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from _helpers.plain_post_ln import D, Einsum, Stack, SubLayer
from _helpers.small_lightning import omegas, trainer
from admin_init import AdminInit


def inputs(count: int = 12) -> Tensor:
    return torch.randn(count, 5, D, generator=torch.Generator().manual_seed(0))


def module(
    lightning: ModuleType = pl, model: nn.Module | None = None, **methods: Callable[..., Any]
) -> Any:
    """A LightningModule that keeps the batches that it trained on."""

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model or Stack(Einsum)
            self.seen: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = torch.cat(list(batch.values())) if isinstance(batch, dict) else batch
            self.seen.append(x.clone())
            loss: Tensor = (self.model(x) - 1).square().mean()
            self.log("loss", loss)
            return loss

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.model(x)
            return y

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self(batch)

        def test_step(self, batch: Tensor, batch_idx: int) -> None:
            self(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    torch.manual_seed(1)
    return type("Module", (Module,), methods)()


def train() -> None:
    """Train on two ranks, and save each one's first batch and omegas."""
    model = module(model=Stack(SubLayer))
    loader = DataLoader(inputs(24), batch_size=4)  # type: ignore[arg-type]
    done = trainer(callbacks=[AdminInit()], max_steps=3, devices=2, strategy="ddp")
    done.fit(model, loader)
    torch.save([model.seen[0], omegas(model)], f"rank{done.global_rank}.pt")
