"""Rules that compute omega from branch variances, pooled over batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

from admin_init.errors import AdminInitError

Rule = Literal["reference", "paper", "log", "constant", "share"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class OmegaRule:
    """A rule that computes omegas, and its setting.

    Raises:
        AdminInitError: The rule is unknown, or ``share`` does not fit it.
    """

    name: Rule = "reference"
    """One of :data:`RULES`."""
    share: float | None = None
    """For the rule ``share``, the share of the input; 0.5 by default. None for the other rules.

    With a share, variances are measured with the rule's own omegas in place, and the inputs of
    Pre-LN streams are scaled, too."""

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise AdminInitError(f"`rule` must be one of {', '.join(RULES)}, but is {self.name!r}.")
        if self.name != "share":
            if self.share is not None:
                raise AdminInitError(
                    f'`share` belongs to `rule="share"`, but `rule` is {self.name!r}. Leave one '
                    "of them out."
                )
        elif self.share is None:
            object.__setattr__(self, "share", 0.5)
        elif not 0 < self.share < 1:
            raise AdminInitError(
                f"`share` must be between 0 and 1, both excluded, but is {self.share!r}."
            )


def omega_from_variances(
    branch: Sequence[float],
    *,
    shortcut: Sequence[float] | None = None,
    rule: Rule = "reference",
    share: float | None = None,
) -> list[float]:
    r"""Compute the omegas of one stack from the variances of its sub-layers.

    Sub-layer i has the residual branch :math:`f_i` and the input :math:`x_{i-1}`. The rules are:

    * ``reference``, as in the code released with the paper: :math:`\omega_1 = 1`,
      :math:`\omega_{i+1} = \sqrt{\omega_i^2 Var[x_{i-1}] + Var[f_i]}`;
    * ``paper``, as in arXiv 2004.08249: :math:`\omega_i = \sqrt{\sum_{j<i} Var[f_j]}`,
      and :math:`\omega_1 = 1`, where the sum is empty;
    * ``log`` and ``constant``, the closed forms of admin-torch 0.1.0 for output changes of
      O(log n) and O(1) in the number n of sub-layers:
      :math:`\sqrt{(n + 1) / \ln(n + 1) - 1}` and :math:`\sqrt n`, the same for all sub-layers;
    * ``share``: the input :math:`x_0` keeps a share :math:`\rho` of the variance of
      :math:`\omega_1 x_0 + f_1 + ... + f_n`. With :math:`K = \rho / (1 - \rho) \sum_j Var[f_j]`,
      :math:`\omega_1 = \sqrt{K / Var[x_0]}` and
      :math:`\omega_{i+1} = \sqrt{K + \sum_{j \le i} Var[f_j]}`. The variances are those measured
      with these omegas in place, which :func:`admin_init.profile` finds.

    Args:
        branch: Var[f_i], in the order of execution.
        shortcut: Var[x_{i-1}], in the same order. Only ``reference`` uses all of it, and ``share``
            the first. The default is 1 everywhere, the output variance of a freshly initialized
            layer norm.
        rule: One of :data:`RULES`.
        share: The share of the rule ``share``, between 0 and 1; 0.5 by default.

    Returns:
        One omega per sub-layer, in the order of execution.

    Raises:
        ValueError: ``rule`` is unknown, ``share`` does not fit it, the two sequences differ in
            length, or the rule is ``share`` and the input is constant.

    Examples:
        >>> omega_from_variances([3.0, 5.0, 7.0])
        [1.0, 2.0, 3.0]
        >>> omega_from_variances([3.0, 4.0, 2.0], shortcut=[9.0, 1.0, 1.0], rule="share", share=0.5)
        [1.0, 3.46..., 4.0]
    """
    checked = OmegaRule(rule, share)
    shortcut = [1.0] * len(branch) if shortcut is None else shortcut
    if len(shortcut) != len(branch):
        raise ValueError(
            f"`shortcut` must have one variance per sub-layer ({len(branch)}), "
            f"but has {len(shortcut)}."
        )
    if rule in ("log", "constant") and branch:
        return [closed_form(len(branch), rule)] * len(branch)
    if checked.share is not None and branch:
        return omega_of_input(branch, shortcut[0], input_variance(sum(branch), checked.share))
    omegas = [1.0] * len(branch)
    total = 0.0
    for i in range(1, len(branch)):
        if rule == "reference":
            omegas[i] = math.sqrt(omegas[i - 1] ** 2 * shortcut[i - 1] + branch[i - 1])
        else:
            total += branch[i - 1]
            omegas[i] = math.sqrt(total)
    return omegas


def input_variance(branches: float, share: float) -> float:
    """Compute the variance K that gives the input of a stack its share beside all branches."""
    return branches * share / (1 - share)


def omega_of_input(branch: Sequence[float], shortcut: float, scaled: float) -> list[float]:
    r"""Compute the omegas of a stack whose scaled input has a given variance.

    Args:
        branch: Var[f_i], in the order of execution.
        shortcut: Var[x_0].
        scaled: K, the variance of :math:`\omega_1 x_0`.

    Raises:
        ValueError: The input is constant.
    """
    if shortcut <= 0:
        raise ValueError(
            f'The input of the stack must have a positive variance for `rule="share"`, but '
            f"`shortcut` begins with {shortcut}."
        )
    first = math.sqrt(scaled / shortcut)
    return [first, *(math.sqrt(scaled + total) for total in accumulate(branch[:-1]))]


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
