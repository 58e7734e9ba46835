"""Bring the ranks of a distributed run to one profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from admin_init.moments import Moments
from admin_init.profiling import SiteMoments

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy


def pool_ranks(strategy: Strategy, measured: Sequence[SiteMoments]) -> list[SiteMoments]:
    """Average the variances of all ranks, weighted by their elements; one collective in all.

    It runs after the pass: a collective inside the forward would hang where ranks diverge.
    """
    if getattr(strategy, "world_size", 1) == 1:
        return list(measured)
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
        device=strategy.root_device,
    )
    sums: list[list[float]] = strategy.reduce(table, reduce_op="sum").tolist()
    pooled = list(measured)
    for i, (count, shortcut, branch) in zip(order, sums, strict=True):
        pooled[i] = replace(
            measured[i],
            shortcut=Moments(int(count), shortcut / count),
            branch=Moments(int(count), branch / count),
        )
    return pooled
