"""Omegas of every chain of residual connections from their measured variances."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import dropwhile
from typing import NamedTuple

from admin_init.adapters.computation.observation import SiteVariances, some
from admin_init.adapters.copies import Copy
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.errors import ProfileError
from admin_init.omega import (
    OmegaRule,
    input_variance,
    omega_from_variances,
    omega_of_input,
)

_TOLERANCE = {"fp64": 1e-12, "fp32": 1e-6}
_HALF = 1e-3
"""Relative change of every omega at which passes with a rule's own omegas in place end, by the type
of the branches. In half precision, the rounding of the branches moves omegas by 1e-4."""
MAX_PASSES = 20
"""Largest number of such passes."""


class Settled(NamedTuple):
    """Variances measured with the omegas of a rule in place, if it needs that."""

    variances: list[SiteVariances]
    passes: int = 1
    """Number of passes."""
    initial_shares: dict[str, float] = {}  # noqa: RUF012, never written
    """Share of the input of each stack in the first pass, at omega = 1."""


def make_profile(
    measured: Sequence[SiteVariances],
    *,
    rule: OmegaRule,
    batches: int,
    passes: int = 1,
    initial_shares: Mapping[str, float] | None = None,
    left_out: Sequence[str] = (),
    copies: Sequence[Copy] = (),
) -> AdminProfile:
    """Compute the omegas of every stack from its measured variances; copies get the same.

    Raises:
        ProfileError: A variance is not finite, or an omega would be 0.
    """
    omegas, constant = omegas_of(measured, rule)
    if constant:
        what = "input" if rule.name == "share" else "sum"
        warnings.warn(
            f"The {what} of {some(constant)} is constant on this batch, as with queries that are "
            "all zero: its omega is 1, and its chain begins after it.",
            stacklevel=3,
        )
    profiles = {
        site.name: SiteProfile(
            name=site.name,
            stack=site.stack,
            variance=site.branch.variance,
            omega=omegas[site.name],
            elements=site.branch.count,
            shortcut_variance=site.shortcut.variance,
            site=site.record,
        )
        for site in measured
    }
    for copy in copies:
        profiles[copy.site.name] = replace(
            profiles[copy.original],
            name=copy.site.name,
            stack=copy.site.stack,
            site=copy.site.record() if copy.site.computed else None,
        )
    return AdminProfile(
        sites=tuple(profiles.values()),
        rule=rule.name,
        share=rule.share,
        batches=batches,
        passes=passes,
        initial_shares=dict(initial_shares or {}),
        dtype=measured[0].dtype,
        left_out=tuple(left_out),
    )


def omegas_of(
    measured: Sequence[SiteVariances], rule: OmegaRule
) -> tuple[dict[str, float], list[str]]:
    """Compute the omegas of every chain from its variances.

    Returns:
        The omegas by the names of the sites, and the names of those sites at the begin of a chain
        that are left at 1, because what the rule needs of them is constant.

    Raises:
        ProfileError: A variance is not finite, or an omega would be 0.
    """
    broken = [
        site.name
        for site in measured
        if not all(0 <= pooled.variance < float("inf") for pooled in (site.shortcut, site.branch))
    ]
    if broken:
        raise ProfileError(
            f"The variance of {some(broken)} is NaN or infinite, so no omega can be computed. "
            "Look for NaN in the batch, an overflow in half precision, or a broken initialization."
        )
    omegas: dict[str, float] = {}
    constant: list[str] = []
    chains: list[list[SiteVariances]] = []
    for whole in _chains(measured):
        chain = list(dropwhile(partial(_is_constant, rule=rule), whole))
        if chain:
            constant += [site.name for site in whole[: len(whole) - len(chain)]]
            omegas |= dict.fromkeys(constant, 1.0)
        chains.append(chain or whole)
    if rule.share is not None:
        omegas |= _of_share(chains, rule.share)
    else:
        for chain in chains:
            values = omega_from_variances(
                [site.branch.variance for site in chain],
                shortcut=[site.shortcut.variance for site in chain],
                rule=rule.name,
            )
            omegas |= {site.name: omega for site, omega in zip(chain, values, strict=True)}
    collapsed = [name for name, omega in omegas.items() if omega == 0]
    if collapsed:
        raise ProfileError(
            f"omega of {some(collapsed)} is 0, because the output of every branch before it is "
            "constant. Profile a model whose branches are initialized at random."
        )
    return omegas, constant


def _of_share(chains: Sequence[Sequence[SiteVariances]], share: float) -> dict[str, float]:
    inputs: dict[str, float] = {}
    for chain in chains:
        # Chains that fork have one input, which keeps at least its share in each of them.
        scaled = input_variance(sum(site.branch.variance for site in chain), share)
        inputs[chain[0].name] = max(scaled, inputs.get(chain[0].name, 0.0))
    omegas: dict[str, float] = {}
    for chain in chains:
        branch, x = [site.branch.variance for site in chain], chain[0].shortcut.variance
        values = omega_of_input(branch, x, inputs[chain[0].name]) if x > 0 else [0.0] * len(chain)
        omegas |= {site.name: omega for site, omega in zip(chain, values, strict=True)}
    return omegas


def settle(
    measured: list[SiteVariances],
    measure: Callable[[dict[str, float]], list[SiteVariances]],
    rule: OmegaRule,
) -> Settled:
    """Repeat passes with a rule's own omegas in place until none of them moves any more.

    Args:
        measured: Variances of a first pass.
        measure: Measures the variances in one more pass, with given omegas in place.
        rule: The rule. One that needs no omegas in place needs no more passes.

    Raises:
        ProfileError: See :func:`omegas_of`.
    """
    if rule.share is None:
        return Settled(measured)
    shares = {chain[-1].stack: _share(chain) for chain in _chains(measured)}
    tolerance = max(_TOLERANCE.get(site.dtype, _HALF) for site in measured)
    omegas, _ = omegas_of(measured, rule)
    for number in range(2, MAX_PASSES + 1):
        measured = measure(omegas)
        after, _ = omegas_of(measured, rule)
        moved = {name: abs(after[name] / before - 1) for name, before in omegas.items()}
        omegas = after
        if max(moved.values()) <= tolerance:
            return Settled(measured, number, shares)
    last = max(moved, key=moved.__getitem__)
    if moved[last] > max(tolerance, _TOLERANCE["fp32"]):
        warnings.warn(
            f"The omegas have not settled after {MAX_PASSES} passes: that of `{last}` still "
            f"changed by {moved[last]:.1e} in the last one. The model may draw random numbers that "
            "`torch.manual_seed` does not repeat.",
            stacklevel=3,
        )
    return Settled(measured, MAX_PASSES, shares)


def _share(chain: Sequence[SiteVariances]) -> float:
    """Return the share of a chain's input in the variance of its input and branches."""
    x = chain[0].shortcut.variance
    total = x + sum(site.branch.variance for site in chain)
    return x / total if total > 0 else 1.0


def _is_constant(site: SiteVariances, rule: OmegaRule) -> bool:
    """Return whether nothing can be computed from a connection at the begin of a chain."""
    if rule.name == "share":
        return site.shortcut.variance == 0.0
    shortcut = site.shortcut.variance if rule.name == "reference" else 0.0
    return shortcut == site.branch.variance == 0.0


def _chains(measured: Sequence[SiteVariances]) -> Iterator[list[SiteVariances]]:
    """Yield every chain from its first site to its last; chains that fork share their begin."""
    by_name = {site.name: site for site in measured}
    followed = {site.previous for site in measured}
    for last in measured:
        if last.name not in followed:
            chain, name = [last], last.previous
            while name is not None:
                chain.append(by_name[name])
                name = by_name[name].previous
            yield chain[::-1]
