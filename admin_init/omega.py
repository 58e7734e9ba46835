"""Rules that compute omega from branch variances, pooled over batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Rule = Literal["reference", "paper", "log", "constant"]
RULES: tuple[Rule, ...] = get_args(Rule)


def check_rule(rule: str) -> None:
    """Raise a ValueError unless ``rule`` is one of :data:`RULES`."""
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}, but is {rule!r}.")


def omega_from_variances(
    branch: Sequence[float], *, shortcut: Sequence[float] | None = None, rule: Rule = "reference"
) -> list[float]:
    r"""Compute the omegas of one stack from the variances of its sub-layers.

    Sub-layer i has the residual branch :math:`f_i` and the input :math:`x_{i-1}`. The rules are:

    * ``reference``, as in the code released with the paper: :math:`\omega_1 = 1`,
      :math:`\omega_{i+1} = \sqrt{\omega_i^2 Var[x_{i-1}] + Var[f_i]}`;
    * ``paper``, as in arXiv 2004.08249: :math:`\omega_i = \sqrt{\sum_{j<i} Var[f_j]}`,
      and :math:`\omega_1 = 1`, where the sum is empty;
    * ``log`` and ``constant``, the closed forms of admin-torch 0.1.0 for output changes of
      O(log n) and O(1) in the number n of sub-layers:
      :math:`\sqrt{(n + 1) / \ln(n + 1) - 1}` and :math:`\sqrt n`, the same for all sub-layers.

    Args:
        branch: Var[f_i], in the order of execution.
        shortcut: Var[x_{i-1}], in the same order. Only ``reference`` uses it. The default is 1
            everywhere, the output variance of a freshly initialized layer norm.
        rule: One of :data:`RULES`.

    Returns:
        One omega per sub-layer, in the order of execution.

    Raises:
        ValueError: ``rule`` is unknown, or the two sequences differ in length.

    Examples:
        >>> omega_from_variances([3.0, 5.0, 7.0])
        [1.0, 2.0, 3.0]
    """
    check_rule(rule)
    shortcut = [1.0] * len(branch) if shortcut is None else shortcut
    if len(shortcut) != len(branch):
        raise ValueError(
            f"`shortcut` must have one variance per sub-layer ({len(branch)}), "
            f"but has {len(shortcut)}."
        )
    if rule in ("log", "constant") and branch:
        return [closed_form(len(branch), rule)] * len(branch)
    omegas = [1.0] * len(branch)
    total = 0.0
    for i in range(1, len(branch)):
        if rule == "reference":
            omegas[i] = math.sqrt(omegas[i - 1] ** 2 * shortcut[i - 1] + branch[i - 1])
        else:
            total += branch[i - 1]
            omegas[i] = math.sqrt(total)
    return omegas


def closed_form(sublayers: int, rule: Literal["log", "constant"] = "log") -> float:
    """Compute admin-torch's omega from the number of sub-layers alone, without a profile."""
    if rule == "constant":
        return math.sqrt(sublayers)
    return math.sqrt((sublayers + 1) / math.log(sublayers + 1) - 1)


def variance(x: Tensor) -> Tensor:
    """Compute the population variance of all elements of ``x``: a scalar on its device.

    Its type is float64 if that of ``x`` is, and float32 otherwise.
    """
    # `var_mean` is six times slower on a CPU.
    return x.to(torch.promote_types(x.dtype, torch.float32)).var(correction=0)


@dataclass(frozen=True)
class PooledVariance:
    """A variance within batches, averaged over batches and ranks."""

    count: int
    """Number of elements."""
    variance: float
    """Variance around the mean of each batch."""

    def pool(self, other: PooledVariance) -> PooledVariance:
        """Average two variances, weighted by their numbers of elements.

        Differences between the means of batches are left out: the rule runs once per batch, with
        that batch's own omegas, so each batch is a sample of the variance and not a part of one
        larger tensor.
        """
        count = self.count + other.count
        weighted = self.count * self.variance + other.count * other.variance
        return PooledVariance(count, weighted / count)
