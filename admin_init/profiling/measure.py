"""Measure the variances of every residual connection of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import nn

from admin_init.adapters.computation.claims import check_sites
from admin_init.adapters.computation.observation import SiteVariances, observe_pass, some
from admin_init.adapters.computation.padding import Padding
from admin_init.adapters.computation.sites import computed_sites, included
from admin_init.adapters.computation.stream_starts import stream_sites
from admin_init.adapters.copies import Copy, copied_modules, split_copies
from admin_init.adapters.discovery import (
    Sites,
    checked_sites,
    known_sites,
    resolve_sites,
    warn_left_out,
)
from admin_init.errors import UnsupportedModelError
from admin_init.omega import OmegaRule
from admin_init.profiling.from_variances import Settled, settle
from admin_init.rescale import installed
from admin_init.sites import ResidualSite


class Measured(NamedTuple):
    """The sites that a model computes, and their variances."""

    sites: list[ResidualSite]
    settled: Settled
    left_out: tuple[str, ...] = ()
    """Names of the other Post-LN connections."""
    copies: Sequence[Copy] = ()
    """The sites of frozen copies, which are not measured."""


def measure_computed(
    model: nn.Module,
    sites: Sites | None,
    run: Callable[[], object],
    *,
    rule: OmegaRule,
    fixed: Sequence[ResidualSite] | None = None,
    exclude: Sequence[str] = (),
    padding: Padding | None = None,
) -> Measured:
    """Find and measure the sites that ``run`` computes in one or two forward passes.

    A second pass is made where the first shows other sites, or another chain, than are known from
    the layers' classes. A rule that needs its own omegas in place takes more, see
    :func:`admin_init.profiling.from_variances.settle`.

    Args:
        model: The model that ``run`` calls.
        sites: The sites, or patterns that name them; None to find them. Given ones are checked.
        run: Makes one forward pass through ``model``.
        rule: Rule for omega.
        fixed: In a training that has begun: the sites that are installed. No others can be any
            more, and the modules keep their modes.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.
        padding: The batch's padding, if it is left out of the variances.

    Raises:
        UnsupportedModelError: The pass computes something else than ``sites``, or nothing that
            Admin can rescale.
        ProfileError: See :func:`measure`.
    """
    observe = partial(observe_pass, model, rule=rule, train=fixed is None, padding=padding)

    def again(
        sites: Sequence[ResidualSite],
    ) -> Callable[[dict[str, float]], list[SiteVariances]]:
        return lambda omegas: observe(sites, run, omegas=omegas, again=True).variances(sites)

    if sites is not None:
        given, copies = split_copies(
            model, included(resolve_sites(model, sites), exclude), copied_modules(model)
        )
        with installed(given):
            observed = observe(given, run)
            measured = observed.variances(given)
            check_sites(model, observed.graph, given)
            if padding is not None:
                padding.check(given)
            settled = settle(measured, again(given), rule)
        return Measured(given, settled, copies=copies)
    there = known_sites(model)
    known, copies = split_copies(
        model, included(there if fixed is None else fixed, exclude), copied_modules(model)
    )
    chain = {site: site.previous for site in known}
    with installed(known):
        observed = observe(known, run)
    observed.check_ran(known)
    in_copies = [copy.site for copy in copies]
    names = {site.name for site in [*known, *in_copies]}
    excluded = [site for site in there if site.name not in names]
    computed = computed_sites(model, observed.graph, [*known, *in_copies, *excluded], exclude)
    if rule.share is not None:
        computed.sites.extend(stream_sites(model, observed.graph, exclude, known))
    if fixed is not None:
        computed.keep(fixed)
    found = checked_sites(model, computed)
    warn_left_out(computed)
    unseen = [s.name for s in known if s not in found and s.name not in computed.left_out]
    if unseen:
        raise UnsupportedModelError(
            f"By their layers' classes, {some(unseen)} are Post-LN connections, but in the forward "
            "pass no norm reads such a sum, or something else reads it, too. Leave them out with "
            "`exclude=`, or name the sites with `sites=`."
        )
    with installed(found):
        if chain != {site: site.previous for site in found}:
            observed = observe(found, run)
        if padding is not None:
            padding.check(found)
        settled = settle(observed.variances(found), again(found), rule)
    return Measured(found, settled, tuple(computed.left_out), computed.copies)


def measure(
    model: nn.Module,
    sites: Sequence[ResidualSite],
    run: Callable[[], object],
    *,
    rule: OmegaRule,
    padding: Padding | None = None,
) -> Settled:
    """Measure each installed site while ``run`` makes forward passes through ``model``.

    Returns:
        One entry per site, in the order of execution.

    Raises:
        ProfileError: A site did not run, ran more than once, or ran out of order.
        UnsupportedModelError: The model was built inside ``torch.inference_mode``.
    """
    observe = partial(observe_pass, model, sites, run, rule=rule, padding=padding)
    return settle(
        observe().variances(sites),
        lambda omegas: observe(omegas=omegas, again=True).variances(sites),
        rule,
    )


def pool(left: Sequence[SiteVariances], right: Sequence[SiteVariances]) -> list[SiteVariances]:
    """Pool the measurements of two passes, site by site."""
    others = {site.name: site for site in right}
    return [
        SiteVariances(
            name=site.name,
            stack=site.stack,
            previous=site.previous,
            record=site.record,
            dtype=site.dtype,
            shortcut=site.shortcut.pool(others[site.name].shortcut),
            branch=site.branch.pool(others[site.name].branch),
        )
        for site in left
    ]
