"""Profile a model on all ranks of a distributed run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed, nn

from admin_init.adapters.computation.observation import SiteVariances
from admin_init.adapters.computation.padding import Padding
from admin_init.admin_profile import AdminProfile
from admin_init.omega import OmegaRule, PooledVariance
from admin_init.profiling.from_variances import make_profile
from admin_init.profiling.measure import measure_computed
from admin_init.sites import ResidualSite


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The ranks of a run and their collective operations."""

    count: int
    """Number of ranks."""
    total: Callable[[Tensor], Tensor]
    """Sums a tensor over the ranks (all-reduce)."""
    broadcast: Callable[[AdminProfile], AdminProfile]
    """Returns rank 0's argument on every rank."""
    device: torch.device | str
    """Device of the tensors that ``total`` takes."""

    @classmethod
    def of_process_group(cls, device: torch.device | str) -> Ranks:
        """Return the ranks of torch's default process group; a single one if there is none."""
        together = distributed.is_available() and distributed.is_initialized()

        def total(table: Tensor) -> Tensor:
            distributed.all_reduce(table)
            return table

        def broadcast(profile: AdminProfile) -> AdminProfile:
            profiles = [profile]
            distributed.broadcast_object_list(profiles, src=0, device=torch.device(device))
            return profiles[0]

        count = distributed.get_world_size() if together else 1
        return cls(count=count, total=total, broadcast=broadcast, device=device)


def profile_ranks(
    model: nn.Module,
    sites: Sequence[ResidualSite],
    run: Callable[[], object],
    *,
    rule: OmegaRule,
    ranks: Ranks,
    given: bool = False,
    exclude: Sequence[str] = (),
    padding: Padding | None = None,
) -> AdminProfile:
    """Profile a model on every rank's batch; all ranks get the same profile.

    Args:
        model: A model whose ``sites`` are installed.
        sites: The residual sites.
        run: Makes one forward pass through ``model`` with this rank's batch.
        rule: Rule for omega.
        ranks: The ranks of this run. A single rank uses no collective.
        given: Whether the user named the sites. Otherwise, they are linked as the model computes
            them, and those that Admin cannot rescale are left out.
        exclude: Patterns of connections that the user left out.
        padding: Padding of this rank's batch, if it is left out of the variances.

    Returns:
        The profile.

    Raises:
        ProfileError: The model cannot be profiled, see :func:`measure_computed`.
        UnsupportedModelError: The model computes something else than the given sites.
    """
    _, settled, left_out, copies = measure_computed(
        model,
        sites if given else None,
        run,
        rule=rule,
        fixed=sites,
        exclude=exclude,
        padding=padding,
    )
    measured = settled.variances
    if ranks.count > 1:
        measured = _pool_ranks(measured, ranks.total, ranks.device)
    profile = make_profile(
        measured,
        rule=rule,
        batches=ranks.count,
        passes=settled.passes,
        initial_shares=settled.initial_shares,
        left_out=left_out,
        copies=copies,
    )
    # Ranks may add in different orders, so their sums may differ in the last bit.
    return profile if ranks.count == 1 else ranks.broadcast(profile)


def _pool_ranks(
    measured: Sequence[SiteVariances], total: Callable[[Tensor], Tensor], device: torch.device | str
) -> list[SiteVariances]:
    """Average the variances over ranks, weighted by their numbers of elements.

    One collective operation after the pass: inside the forward pass it would hang if the ranks
    took different paths.

    Args:
        measured: Variances that this rank measured.
        total: Sums a tensor of shape (sites, 3) over the ranks.
        device: Device of that tensor.
    """
    # Sorted, because the ranks may run the sites in different orders.
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
