"""The rules of Admin: from branch variances, pooled over batches and ranks, to omega."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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

    With :math:`f_i` the residual branch of sub-layer i and :math:`x_{i-1}` its input:

    * ``reference``, the code released with the paper: :math:`\omega_1 = 1`,
      :math:`\omega_{i+1} = \sqrt{\omega_i^2 Var[x_{i-1}] + Var[f_i]}`;
    * ``paper``, arXiv 2004.08249: :math:`\omega_i = \sqrt{\sum_{j<i} Var[f_j]}`,
      with the empty sum of i = 1 replaced by 1;
    * ``log`` and ``constant``, the closed forms of admin-torch 0.1.0 for output changes of
      O(log n) and O(1) in the number n of sub-layers:
      :math:`\sqrt{(n + 1) / \ln(n + 1) - 1}` and :math:`\sqrt n`, the same for all sub-layers.

    Args:
        branch: Var[f_i], in the order of execution.
        shortcut: Var[x_{i-1}], in the same order; only ``reference`` reads it. 1 where not given,
            which is what a layer norm at its initialization puts out.
        rule: One of :data:`RULES`.

    Raises:
        ValueError: ``rule`` is unknown, or the two sequences differ in length.
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
    """Return admin-torch's omega for a stack of ``sublayers`` residual sub-layers, unprofiled."""
    if rule == "constant":
        return math.sqrt(sublayers)
    return math.sqrt((sublayers + 1) / math.log(sublayers + 1) - 1)


def variance(x: Tensor) -> Tensor:
    """Return the population variance of all elements of ``x``, a float32 scalar on its device."""
    # `var_mean` would be six times slower on a CPU, and the mean is not needed.
    return x.float().var(correction=0)


@dataclass(frozen=True)
class PooledVariance:
    """How many elements were seen, and their variance around the mean of their own batch."""

    count: int
    variance: float

    def pool(self, other: PooledVariance) -> PooledVariance:
        """Average the two variances, weighted by their elements.

        The rule of Admin is sequential: each batch runs it with omegas of its own, so the batches
        are samples of the variance, not parts of one larger tensor.
        """
        count = self.count + other.count
        weighted = self.count * self.variance + other.count * other.variance
        return PooledVariance(count, weighted / count)
