"""A model that takes given weights, an epoch each."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def walker(lightning: ModuleType, weights: list[float]) -> Any:
    """A module whose one weight is ``weights[i]`` after epoch i, and should be 1."""

    class Walker(lightning.LightningModule):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.register_buffer("epochs", torch.tensor(0))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            with torch.no_grad():
                self.weight.fill_(weights[self.current_epoch])
                self.epochs.add_(1)
            return 0 * self.weight.sum()

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            distance = (self.weight - 1).abs().sum()
            self.log("val_nll", distance, sync_dist=True)
            self.log("accuracy", -distance, sync_dist=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    return Walker()


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(2, 1)), generator=torch.Generator())
