"""Bring the ranks of a distributed run to one profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from admin_init.omega import Moments
from admin_init.profiling import SiteMoments


def pool_ranks(
    measured: Sequence[SiteMoments], total: Callable[[Tensor], Tensor], device: torch.device | str
) -> list[SiteMoments]:
    """Average the variances of all ranks, weighted by their elements; one collective in all.

    It runs after the pass: a collective inside the forward would hang where ranks diverge.

    Args:
        measured: What this rank has measured.
        total: Adds a tensor, shape (sites, 3), up over the ranks; every rank gets the sum.
        device: Where the collective needs the tensor.
    """
    # Every rank sends its sites in the same order, whatever it executed first.
    order = sorted(range(len(measured)), key=lambda i: measured[i].name)
    table = torch.tensor(
        [
            [
                measured[i].branch.count,
                measured[i].shortcut.count * measured[i].shortcut.variance,
                measured[i].branch.count * measured[i].branch.variance,
            ]
            for i in order
        ],
        dtype=torch.float64,
        device=device,
    )
    sums: list[list[float]] = total(table).tolist()
    pooled = list(measured)
    for i, (count, shortcut, branch) in zip(order, sums, strict=True):
        pooled[i] = replace(
            measured[i],
            shortcut=Moments(int(count), shortcut / count),
            branch=Moments(int(count), branch / count),
        )
    return pooled
