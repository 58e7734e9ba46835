"""Measure the variance of every residual branch of a model (arXiv 2004.08249)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import dropwhile
from typing import Any, NamedTuple

from torch import Tensor, nn

from admin_init.adapters.computation.claims import check_sites
from admin_init.adapters.computation.observation import (
    SiteVariances,
    observe_pass,
    some,
)
from admin_init.adapters.computation.sites import computed_sites, included, is_excluded
from admin_init.adapters.copies import Copy, split_copies
from admin_init.adapters.discovery import (
    Forward,
    Sites,
    call_model,
    checked_sites,
    known_sites,
    resolve_sites,
    warn_left_out,
)
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.errors import ProfileError, UnsupportedModelError
from admin_init.omega import Rule, check_rule, omega_from_variances
from admin_init.rescale import installed
from admin_init.sites import ResidualSite


def profile(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    rule: Rule = "reference",
    sites: Sites | None = None,
    exclude: Sequence[str] = (),
) -> AdminProfile:
    """Profile a model without changing it.

    Each batch takes one forward pass without gradients, in train mode (dropout on), that starts at
    omega = 1. Afterwards, parameters, omegas, buffers, modes and random states are as before.

    Args:
        model: A model with Post-LN layers, freshly initialized.
        batches: Batches to profile on. The paper uses one.
        forward: Called as ``forward(model, batch)``. By default, a tuple or list is passed as
            positional arguments, a mapping as keyword arguments, and anything else as the only
            argument.
        rule: Formula for omega, see :func:`admin_init.omega.omega_from_variances`.
        sites: Residual sites, patterns that name them (see :func:`admin_init.named_sites`), or a
            file of :func:`admin_init.save_sites`. Default: those that the model computes on
            the first batch.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.

    Returns:
        The profile, to pass to :func:`admin_init.apply_`.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale, or was
            built inside ``torch.inference_mode``.
        ProfileError: ``batches`` is empty, a site did not run exactly once per pass, or a variance
            is not finite.
        ValueError: ``rule`` is unknown.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> profile = admin_init.profile(model, [torch.randn(4, 10, 16)])
        >>> profile.signature
        'rule:reference|batches:1|elements:2560|dtype:fp32|version:...'
        >>> model = admin_init.apply_(model, profile)
    """
    check_rule(rule)
    if isinstance(batches, Tensor | Mapping):
        raise ProfileError(
            f"`batches` must be an iterable of batches, but is one {type(batches).__name__}. "
            "Pass a list: `profile(model, [batch])`."
        )
    return profile_sites(model, batches, forward=forward, rule=rule, sites=sites, exclude=exclude)[
        0
    ]


def profile_sites(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None,
    rule: Rule,
    sites: Sites | None,
    exclude: Sequence[str],
) -> tuple[AdminProfile, list[ResidualSite]]:
    """Profile a model, and return the profiled sites, too; see :func:`profile`."""
    run = forward or call_model
    first: Measured | None = None
    total: list[SiteVariances] = []
    passes = 0
    for batch in batches:
        once = partial(run, model, batch)
        if first is None:
            first = measure_computed(model, sites, once, rule=rule, exclude=exclude)
            total = first.variances
        else:
            with installed(first.sites):
                total = pool(total, measure(model, first.sites, once, rule=rule))
        passes += 1
    if first is None:
        raise ProfileError("`batches` must hold at least one batch, but is empty.")
    profile = make_profile(
        total, rule=rule, batches=passes, left_out=first.left_out, copies=first.copies
    )
    return profile, [*first.sites, *(copy.site for copy in first.copies)]


class Measured(NamedTuple):
    """The sites that a model computes, and their variances."""

    sites: list[ResidualSite]
    variances: list[SiteVariances]
    left_out: tuple[str, ...] = ()
    """Names of the other Post-LN connections."""
    copies: Sequence[Copy] = ()
    """The sites of frozen copies, which are not measured."""


def measure_computed(
    model: nn.Module,
    sites: Sites | None,
    run: Callable[[], object],
    *,
    rule: Rule,
    fixed: Sequence[ResidualSite] | None = None,
    exclude: Sequence[str] = (),
) -> Measured:
    """Find and measure the sites that ``run`` computes in one or two forward passes.

    A second pass is made where the first shows other sites, or another chain, than are known from
    the layers' classes.

    Args:
        model: The model that ``run`` calls.
        sites: The sites, or patterns that name them; None to find them. Given ones are checked.
        run: Makes one forward pass through ``model``.
        rule: Formula for omega.
        fixed: In a training that has begun: the sites that are installed. No others can be any
            more, and the modules keep their modes.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.

    Raises:
        UnsupportedModelError: The pass computes something else than ``sites``, or nothing that
            Admin can rescale.
        ProfileError: See :func:`measure`.
    """
    if sites is not None:
        given, copies = split_copies(model, included(resolve_sites(model, sites), exclude))
        with installed(given):
            observed = observe_pass(model, given, run, rule=rule, train=fixed is None)
        measured = observed.variances(given)
        check_sites(model, observed.graph, given)
        return Measured(given, measured, copies=copies)
    there = known_sites(model)
    known, copies = split_copies(model, included(there if fixed is None else fixed, exclude))
    chain = {site: site.previous for site in known}
    with installed(known):
        observed = observe_pass(model, known, run, rule=rule, train=fixed is None)
    observed.check_ran(known)
    in_copies = [copy.site for copy in copies]
    names = {site.name for site in [*known, *in_copies]}
    excluded = [site for site in there if site.name not in names]
    computed = computed_sites(model, observed.graph, [*known, *in_copies, *excluded], exclude)
    computed.sites[:] = [site for site in computed.sites if site not in in_copies]
    if fixed is not None:
        computed.keep(fixed)
    found = checked_sites(model, computed)
    warn_left_out(computed)
    if fixed is None:
        found, copies = split_copies(model, [*found, *in_copies])
        copies = [copy for copy in copies if not is_excluded(copy.site.name, exclude)]
    unseen = [s.name for s in known if s not in found and s.name not in computed.left_out]
    if unseen:
        raise UnsupportedModelError(
            f"By their layers' classes, {some(unseen)} are Post-LN connections, but in the forward "
            "pass no norm reads such a sum, or something else reads it, too. Leave them out with "
            "`exclude=`, or name the sites with `sites=`."
        )
    if chain != {site: site.previous for site in found}:
        with installed(found):
            observed = observe_pass(model, found, run, rule=rule, train=fixed is None)
    return Measured(found, observed.variances(found), tuple(computed.left_out), copies)


def measure(
    model: nn.Module, sites: Sequence[ResidualSite], run: Callable[[], object], *, rule: Rule
) -> list[SiteVariances]:
    """Measure each installed site while ``run`` makes one forward pass through ``model``.

    Returns:
        One entry per site, in the order of execution.

    Raises:
        ProfileError: A site did not run, ran more than once, or ran out of order.
        UnsupportedModelError: The model was built inside ``torch.inference_mode``.
    """
    return observe_pass(model, sites, run, rule=rule).variances(sites)


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
