"""Profile a model on batches (arXiv 2004.08249)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from admin_init.adapters.computation.observation import SiteVariances
from admin_init.adapters.computation.padding import IgnorePadding, padding_of
from admin_init.adapters.discovery import Forward, Sites, call_model
from admin_init.admin_profile import AdminProfile
from admin_init.errors import ProfileError
from admin_init.omega import OmegaRule, Rule
from admin_init.profiling.from_variances import make_profile
from admin_init.profiling.measure import Measured, measure, measure_computed, pool
from admin_init.rescale import installed
from admin_init.sites import ResidualSite


def profile(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    rule: Rule = "reference",
    share: float | None = None,
    sites: Sites | None = None,
    exclude: Sequence[str] = (),
    ignore_padding: IgnorePadding | None = None,
) -> AdminProfile:
    """Profile a model without changing it.

    Each batch takes one forward pass without gradients, in train mode (dropout on), that starts at
    omega = 1. The rule ``share`` repeats the pass with its own omegas in place, and the same
    random numbers, until no omega changes by more than 1e-6 of itself (1e-12 in float64, 1e-3 in
    half precision), at most 20 times. Afterwards, parameters, omegas, buffers, modes and random
    states are as before.

    Args:
        model: A model with Post-LN layers, freshly initialized.
        batches: Batches to profile on. The paper uses one.
        forward: Called as ``forward(model, batch)``. By default, a tuple or list is passed as
            positional arguments, a mapping as keyword arguments, and anything else as the only
            argument.
        rule: Formula for omega, see :func:`admin_init.omega.omega_from_variances`.
        share: For the rule ``share``: the share of a stack's input in the variance of its output,
            between 0 and 1; 0.5 by default.
        sites: Residual sites, patterns that name them (see :func:`admin_init.named_sites`), or a
            file of :func:`admin_init.save_sites`. Default: those that the model computes on
            the first batch.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.
        ignore_padding: Positions to leave out of the variances, see :class:`admin_init.AdminInit`.

    Returns:
        The profile, to pass to :func:`admin_init.apply_`.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale, or was
            built inside ``torch.inference_mode``.
        ProfileError: ``batches`` is empty, a site did not run exactly once per pass, or a variance
            is not finite.
        ValueError: ``rule`` is unknown, or ``share`` does not fit it.

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
    checked = OmegaRule(rule, share)
    if isinstance(batches, Tensor | Mapping):
        raise ProfileError(
            f"`batches` must be an iterable of batches, but is one {type(batches).__name__}. "
            "Pass a list: `profile(model, [batch])`."
        )
    measured, _ = profile_sites(
        model,
        batches,
        forward=forward,
        rule=checked,
        sites=sites,
        exclude=exclude,
        ignore_padding=ignore_padding,
    )
    return measured


def profile_sites(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None,
    rule: OmegaRule,
    sites: Sites | None,
    exclude: Sequence[str],
    ignore_padding: IgnorePadding | None = None,
) -> tuple[AdminProfile, list[ResidualSite]]:
    """Profile a model, and return the profiled sites, too; see :func:`profile`."""
    run = forward or call_model
    first: Measured | None = None
    total: list[SiteVariances] = []
    count = passes = 0
    for batch in batches:
        once = partial(run, model, batch)
        padding = padding_of(ignore_padding, batch)
        if first is None:
            first = measure_computed(
                model, sites, once, rule=rule, exclude=exclude, padding=padding
            )
            total, passes, _ = first.settled
        else:
            with installed(first.sites):
                again = measure(model, first.sites, once, rule=rule, padding=padding)
            total, passes = pool(total, again.variances), max(passes, again.passes)
        count += 1
    if first is None:
        raise ProfileError("`batches` must hold at least one batch, but is empty.")
    profile = make_profile(
        total,
        rule=rule,
        batches=count,
        passes=passes,
        initial_shares=first.settled.initial_shares,
        left_out=first.left_out,
        copies=first.copies,
    )
    return profile, [*first.sites, *(copy.site for copy in first.copies)]
