"""Optimizers and learning-rate schedules of the translation recipes."""

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
    """Optimizer and learning-rate schedule.

    Raises:
        AdminInitError: Values are out of their ranges; the message lists all of them.

    Examples:
        >>> config = OptimizationConfig(learning_rate=1e-3, warmup_steps=100)
        >>> [round(config.factor(step), 3) for step in (0, 50, 100, 400)]
        [0.0, 0.5, 1.0, 0.5]
    """

    optimizer: Optimizer = "adam"
    """Adam (Kingma and Ba 2015) or RAdam (Liu et al. 2020), both with decoupled weight decay."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate, reached at the end of the warm-up."""

    warmup_steps: NonNegativeInt = 4000
    """Number of linear warm-up steps; 0 for no warm-up."""

    initial_learning_rate: NonNegativeFloat = 1e-7
    """Learning rate at the start of the warm-up."""

    schedule: Schedule = "inverse_sqrt"
    """Schedule after the warm-up. `linear` reaches zero at `total_steps`."""

    total_steps: NonNegativeInt = 0
    """Number of training steps, including the warm-up. Only `linear` needs it."""

    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the optimizer's first and second moments."""

    eps: NonNegativeFloat = 1e-8
    """Term added to the optimizer's denominator for numerical stability."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay. AdminInit exempts omega from it."""

    def __post_init__(self) -> None:
        problems = type_problems(type(self), vars(self))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            problems.append(
                f"`betas` must be two numbers, each at least 0 and below 1, but is {self.betas}."
            )
        if self.schedule == "linear" and self.total_steps <= self.warmup_steps:
            problems.append(
                f"`total_steps` must exceed `warmup_steps` = {self.warmup_steps} for a linear "
                f"schedule, but is {self.total_steps}."
            )
        if problems:
            raise AdminInitError("\n".join(problems))

    def build(
        self, parameters: Iterable[nn.Parameter], *, fused: bool = True
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Build the optimizer and its schedule, which is stepped after every update.

        Args:
            parameters: Parameters to optimize.
            fused: Whether Adam uses the fused kernel; if not, torch chooses. RAdam has no fused
                kernel.

        Returns:
            The optimizer and the schedule.
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
        """Compute the factor of `learning_rate` after a number of updates.

        Warm-up and inverse square root equal those of fairseq's ``inverse_sqrt``.

        Args:
            updates: Number of updates so far.
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
