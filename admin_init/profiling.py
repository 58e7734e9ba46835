"""Measure the variance of every residual branch of a model (arXiv 2004.08249)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from admin_init._utils.isolation import trial_pass
from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.errors import ProfileError
from admin_init.omega import PooledVariance, Rule, check_rule, omega_from_variances, variance
from admin_init.rescale import check_can_train, installed
from admin_init.sites import ResidualSite, stacks

Forward = Callable[[Any, Any], object]
"""Runs a model on a batch; its return value is ignored."""


def profile(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    rule: Rule = "reference",
    sites: Sites | None = None,
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
        sites: Residual sites, or patterns that name them (see :func:`admin_init.named_sites`).
            Default: the sites of all layers of known families.

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
    found = resolve_sites(model, sites)
    run = forward or call_model
    total: list[SiteVariances] = []
    passes = 0
    with installed(found):
        for batch in batches:
            measured = measure(model, found, partial(run, model, batch), rule=rule)
            total = pool(total, measured) if passes else measured
            passes += 1
    if not passes:
        raise ProfileError("`batches` must hold at least one batch, but is empty.")
    return make_profile(total, rule=rule, batches=passes)


@dataclass(frozen=True, kw_only=True)
class SiteVariances:
    """Variances measured at one site, in one or more passes."""

    name: str
    stack: str
    dtype: str
    """Type in which the branch was computed, such as ``fp32``."""
    shortcut: PooledVariance
    """Variance of x, before omega."""
    branch: PooledVariance
    """Variance of f(x), as it enters the sum."""


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
    check_can_train(sites)
    recorder = _Pass(rule)
    with ExitStack() as stack:
        stack.enter_context(trial_pass(model))
        for site in sites:
            for handle in site.observe(recorder):
                stack.callback(handle.remove)
        model.train()
        run()
    missing = [site.name for site in sites if site.name not in recorder.branch]
    if missing:
        raise ProfileError(
            f"{len(missing)} of {len(sites)} residual connections never ran in the forward pass "
            f"({_some(missing)}). Pass a `forward=` that runs the whole model once, or leave "
            "them out with `sites=`."
        )
    for stack_name, chain in stacks(sites).items():
        names = [site.name for site in chain]
        executed = [site.name for site, *_ in recorder.sites if site.stack == stack_name]
        if executed != names:
            raise ProfileError(
                f"The sub-layers of `{stack_name}` ran in another order ({_some(executed)}) than "
                f"the model defines them in ({_some(names)}), but each omega depends on the one "
                "before. Define them in the order of execution."
            )
    return recorder.variances()


def pool(left: Sequence[SiteVariances], right: Sequence[SiteVariances]) -> list[SiteVariances]:
    """Pool the measurements of two passes, site by site."""
    others = {site.name: site for site in right}
    return [
        SiteVariances(
            name=site.name,
            stack=site.stack,
            dtype=site.dtype,
            shortcut=site.shortcut.pool(others[site.name].shortcut),
            branch=site.branch.pool(others[site.name].branch),
        )
        for site in left
    ]


def make_profile(measured: Sequence[SiteVariances], *, rule: Rule, batches: int) -> AdminProfile:
    """Compute the omegas of every stack from its measured variances.

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
            f"The variance of {_some(broken)} is NaN or infinite, so no omega can be computed. "
            "Look for NaN in the batch, an overflow in half precision, or a broken initialization."
        )
    omegas: dict[str, float] = {}
    for stack in dict.fromkeys(site.stack for site in measured):
        chain = [site for site in measured if site.stack == stack]
        values = omega_from_variances(
            [site.branch.variance for site in chain],
            shortcut=[site.shortcut.variance for site in chain],
            rule=rule,
        )
        omegas |= {site.name: omega for site, omega in zip(chain, values, strict=True)}
    collapsed = [name for name, omega in omegas.items() if omega == 0]
    if collapsed:
        raise ProfileError(
            f"omega of {_some(collapsed)} is 0, because the output of every branch before it is "
            "constant. Profile a model whose branches are initialized at random."
        )
    return AdminProfile(
        sites=tuple(
            SiteProfile(
                name=site.name,
                stack=site.stack,
                variance=site.branch.variance,
                omega=omegas[site.name],
                elements=site.branch.count,
                shortcut_variance=site.shortcut.variance,
            )
            for site in measured
        ),
        rule=rule,
        batches=batches,
        dtype=measured[0].dtype,
    )


class _Pass:
    """Records one forward pass; values stay on the device until :meth:`variances`."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.branch: dict[str, Tensor] = {}
        self.shortcut: dict[str, Tensor] = {}
        self.sites: list[tuple[ResidualSite, int, str]] = []
        self.running: dict[str, Tensor] = {}

    def omega(self, site: ResidualSite) -> Tensor:
        one = site.norm_weight.new_ones((), dtype=torch.float32)
        return self.running.get(site.stack, one)

    def record(self, site: ResidualSite, shortcut: Tensor, branch: Tensor) -> None:
        if site.name in self.branch:
            raise ProfileError(
                f"`{site.name}` ran twice in one forward pass, so its branch has no single "
                "variance. Admin does not apply to a layer that is shared between depths. "
                "Otherwise, pass a `forward=` that calls the layer once."
            )
        self.sites.append((site, branch.numel(), _short(branch.dtype)))
        self.shortcut[site.name] = variance(shortcut)
        self.branch[site.name] = variance(branch)
        if self.rule == "reference":
            scaled = self.omega(site).square() * self.shortcut[site.name]
            self.running[site.stack] = (scaled + self.branch[site.name]).sqrt()

    def variances(self) -> list[SiteVariances]:
        shortcuts = _read(self.shortcut.values())
        branches = _read(self.branch.values())
        return [
            SiteVariances(
                name=site.name,
                stack=site.stack,
                dtype=dtype,
                shortcut=PooledVariance(count, shortcut),
                branch=PooledVariance(count, branch),
            )
            for (site, count, dtype), shortcut, branch in zip(
                self.sites, shortcuts, branches, strict=True
            )
        ]


def _read(scalars: Iterable[Tensor]) -> list[float]:
    values: list[float] = torch.stack(list(scalars)).tolist()
    return values


def _short(dtype: torch.dtype) -> str:
    return {"bfloat16": "bf16"}.get(name := str(dtype).removeprefix("torch."), name).replace(
        "float", "fp"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:3]) + (" ..." if len(names) > 3 else "")


def call_model(model: Callable[..., object], batch: Any) -> object:
    """Call ``model`` with the items of a mapping, tuple or list, or with ``batch`` itself."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)
