"""A student with a teacher that is a frozen copy of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from _helpers.plain_post_ln import Stack, SubLayer
from _helpers.small_lightning import encoder, trainer
from admin_init import AdminInit


def encoder_of() -> nn.Module:
    return encoder(dropout=0.0)


def stack_of() -> nn.Module:
    return Stack(SubLayer)


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(torch.randn(16, 5, 16, generator=generator), batch_size=4)  # type: ignore[arg-type]


def omegas_in(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if name.endswith("omega")}


class Distilled(pl.LightningModule):
    """As in DINO or BYOL: the student follows the teacher, and the teacher its average.

    Args:
        build: Builds the student.
        when: The hook in which it is copied.
        runs: Whether the teacher runs in the step.
    """

    def __init__(self, build: Callable[[], nn.Module], when: str, *, runs: bool = True) -> None:
        super().__init__()
        self.student = build()
        self.when, self.runs = when, runs
        self.apart: list[float] = []
        self.example_input_array = torch.randn(2, 5, 16)
        self._copy("__init__")

    def _copy(self, when: str) -> None:
        if when == self.when:
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def setup(self, stage: str) -> None:
        self._copy("setup")

    def on_fit_start(self) -> None:
        self._copy("on_fit_start")

    def forward(self, batch: Tensor) -> Tensor:
        y: Tensor = self.student(batch)
        return y

    def training_step(self, batch: Tensor) -> Tensor:
        y = self(batch)
        with torch.no_grad():
            aim = self.teacher(batch) if self.runs else torch.zeros(())
            self.apart.append((y - aim).abs().max().item() if self.runs else self._weights_apart())
        return (y - aim - 1).square().mean()

    def _weights_apart(self) -> float:
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        return max((theirs - ours).abs().max().item() for theirs, ours in pairs)

    def on_train_batch_end(self, *_: Any) -> None:
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for theirs, ours in pairs:
            theirs.data.lerp_(ours.data, 0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self._copy("configure_optimizers")
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


def train() -> None:
    """Train on two ranks, and save the omegas of each."""
    model = Distilled(stack_of, "__init__")
    done = trainer(
        callbacks=[AdminInit()], max_steps=2, devices=2, strategy="ddp_find_unused_parameters_true"
    )
    done.fit(model, data())
    torch.save({n: p.detach() for n, p in omegas_in(model).items()}, f"rank{done.global_rank}.pt")
