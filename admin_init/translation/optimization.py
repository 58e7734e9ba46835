"""Optimizers and schedules of the translation recipes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from admin_init._utils.validation import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    type_problems,
)
from admin_init.errors import AdminInitError

Optimizer = Literal["adam", "radam"]
Schedule = Literal["inverse_sqrt", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How the weights are updated.

    Raises:
        AdminInitError: A value is out of its range; the message lists every one of them.
    """

    optimizer: Optimizer = "adam"
    """Adam (Kingma and Ba 2015) or RAdam (Liu et al. 2020), weight decay decoupled in both."""

    learning_rate: PositiveFloat = 1e-3
    """The highest learning rate, which the warm-up ends at."""

    warmup_steps: NonNegativeInt = 4000
    """Updates of linear warm-up; 0 for none."""

    initial_learning_rate: NonNegativeFloat = 1e-7
    """Where the warm-up begins."""

    schedule: Schedule = "inverse_sqrt"
    """What follows the warm-up. `linear` reaches zero at `total_steps`."""

    total_steps: NonNegativeInt = 0
    """Number of updates, which only `linear` needs."""

    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the optimizer's first and second moments."""

    eps: NonNegativeFloat = 1e-8
    """What the optimizer adds to its denominator."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay. AdminInit keeps omega out of it."""

    def __post_init__(self) -> None:
        problems = type_problems(type(self), vars(self))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            problems.append(
                f"`betas` must be two numbers, at least 0 and below 1, but is {self.betas}."
            )
        if self.schedule == "linear" and self.total_steps <= self.warmup_steps:
            problems.append(
                "`total_steps` must exceed `warmup_steps` for a linear schedule, but is "
                f"{self.total_steps}."
            )
        if problems:
            raise AdminInitError("\n".join(problems))

    def build(
        self, parameters: Iterable[nn.Parameter], *, fused: bool = True
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Make the optimizer, and the schedule that is stepped after every update.

        Args:
            parameters: What is updated.
            fused: Whether Adam updates each weight in one pass over it, or as torch chooses. RAdam
                has no such kernel.
        """
        settings: dict[str, Any] = {
            "lr": self.learning_rate,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }
        optimizer: torch.optim.Optimizer
        if self.optimizer == "radam":
            optimizer = torch.optim.RAdam(parameters, **settings, decoupled_weight_decay=True)
        else:
            optimizer = torch.optim.AdamW(parameters, **settings, fused=fused or None)
        return optimizer, LambdaLR(optimizer, self.factor)

    def factor(self, updates: int) -> float:
        """Return the share of `learning_rate` that update number ``updates`` + 1 uses.

        The warm-up and the inverse square root are those of fairseq's ``inverse_sqrt``.
        """
        if updates < self.warmup_steps:
            first = self.initial_learning_rate / self.learning_rate
            return first + (1 - first) * updates / self.warmup_steps
        if self.schedule == "inverse_sqrt":
            return float((max(self.warmup_steps, 1) / max(updates, 1)) ** 0.5)
        if self.schedule == "linear":
            left = (self.total_steps - updates) / (self.total_steps - self.warmup_steps)
            return max(left, 0.0)
        return 1.0
