"""Omegas of every chain of residual connections from their measured variances."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import dropwhile

from admin_init.adapters.computation.observation import SiteVariances, some
from admin_init.adapters.copies import Copy
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.errors import ProfileError
from admin_init.omega import Rule, omega_from_variances


def make_profile(
    measured: Sequence[SiteVariances],
    *,
    rule: Rule,
    batches: int,
    left_out: Sequence[str] = (),
    copies: Sequence[Copy] = (),
) -> AdminProfile:
    """Compute the omegas of every stack from its measured variances; copies get the same.

    Raises:
        ProfileError: A variance is not finite.
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
    for whole in _chains(measured):
        chain = list(dropwhile(partial(_is_constant, rule=rule), whole))
        if chain:
            constant += [site.name for site in whole[: len(whole) - len(chain)]]
            omegas |= dict.fromkeys(constant, 1.0)
        values = omega_from_variances(
            [site.branch.variance for site in chain or whole],
            shortcut=[site.shortcut.variance for site in chain or whole],
            rule=rule,
        )
        omegas |= {site.name: omega for site, omega in zip(chain or whole, values, strict=True)}
    if constant:
        warnings.warn(
            f"The sum of {some(constant)} is constant on this batch, as with queries that are all "
            "zero: its omega is 1, and its chain begins after it.",
            stacklevel=3,
        )
    collapsed = [name for name, omega in omegas.items() if omega == 0]
    if collapsed:
        raise ProfileError(
            f"omega of {some(collapsed)} is 0, because the output of every branch before it is "
            "constant. Profile a model whose branches are initialized at random."
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
        rule=rule,
        batches=batches,
        dtype=measured[0].dtype,
        left_out=tuple(left_out),
    )


def _is_constant(site: SiteVariances, rule: Rule) -> bool:
    """Return whether a connection gives the next one an omega of 0."""
    shortcut = site.shortcut.variance if rule == "reference" else 0.0
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
