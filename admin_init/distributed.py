"""Bring the ranks of a distributed run to one profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from admin_init.admin_profile import AdminProfile
from admin_init.omega import PooledVariance, Rule
from admin_init.profiling import SiteVariances, make_profile, measure
from admin_init.sites import ResidualSite


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The ranks of a run, and the collectives that a profile needs."""

    count: int
    """Number of ranks."""
    total: Callable[[Tensor], Tensor]
    """Adds a tensor up over the ranks; every rank gets the sum."""
    broadcast: Callable[[AdminProfile], AdminProfile]
    """Returns on every rank what rank 0 calls it with."""
    device: torch.device | str
    """Where the collectives need tensors."""


def profile_ranks(
    model: nn.Module,
    sites: Sequence[ResidualSite],
    run: Callable[[], object],
    *,
    rule: Rule,
    ranks: Ranks,
) -> AdminProfile:
    """Profile ``model`` on the batch of every rank, and return the same profile on all of them.

    Args:
        model: A model whose ``sites`` are installed.
        sites: The residual connections.
        run: Passes this rank's batch once through ``model``.
        rule: How omegas follow from variances.
        ranks: Of this run; one rank uses no collective.

    Raises:
        ProfileError: The model cannot be profiled, see :func:`~admin_init.profiling.measure`.
    """
    measured = measure(model, sites, run, rule=rule)
    if ranks.count > 1:
        measured = _pool_ranks(measured, ranks.total, ranks.device)
    profile = make_profile(measured, rule=rule, batches=ranks.count)
    # The ranks computed the same sums, perhaps not in the same order of additions.
    return profile if ranks.count == 1 else ranks.broadcast(profile)


def _pool_ranks(
    measured: Sequence[SiteVariances], total: Callable[[Tensor], Tensor], device: torch.device | str
) -> list[SiteVariances]:
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
            shortcut=PooledVariance(int(count), shortcut / count),
            branch=PooledVariance(int(count), branch / count),
        )
    return pooled
