"""Observation of one forward pass: its graph, and the variances of both terms of every sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from admin_init._utils.isolation import trial_pass, whole_pass
from admin_init.adapters.branch_form import BranchSite
from admin_init.adapters.computation.branch_ends import outputs_ending
from admin_init.adapters.computation.graph import ForwardGraph, Value, hidden
from admin_init.adapters.computation.padding import Padding
from admin_init.adapters.computation.residuals import entering, terms
from admin_init.adapters.computation.stream_starts import running_streams
from admin_init.adapters.skip_form import SkipSite
from admin_init.adapters.stream_form import StreamSite
from admin_init.errors import ProfileError, UnsupportedModelError
from admin_init.omega import OmegaRule, PooledVariance, variance
from admin_init.sites import ResidualSite, SiteRecord, stacks


@dataclass(frozen=True, kw_only=True)
class SiteVariances:
    """Variances measured at one site, in one or more passes."""

    name: str
    stack: str
    previous: str | None = None
    """Name of the site before, whose norm puts out x; None for the first."""
    record: SiteRecord | None = None
    """Where the site is."""
    dtype: str
    """Type in which the branch was computed, such as ``fp32``."""
    shortcut: PooledVariance
    """Variance of x, before omega."""
    branch: PooledVariance
    """Variance of f(x), as it enters the sum; for a Pre-LN stream, the sum of all of them."""


def observe_pass(
    model: nn.Module,
    sites: Sequence[ResidualSite],
    run: Callable[[], object],
    *,
    rule: OmegaRule,
    train: bool = True,
    padding: Padding | None = None,
    omegas: Mapping[str, float] | None = None,
    again: bool = False,
) -> ObservedPass:
    """Observe each installed site while ``run`` makes one forward pass through ``model``.

    Args:
        model: The model that ``run`` calls.
        sites: The sites.
        run: Makes one forward pass through ``model``.
        rule: Rule for omega. ``reference`` puts each omega in place during the pass.
        train: Whether the model runs in train mode, or in the modes that its modules have.
        padding: The batch's padding, if it is left out of the variances.
        omegas: Omegas to put in place, by the names of the sites; otherwise, and for other sites,
            they start at 1.
        again: Whether the pass repeats one, so that its graph is of no interest.

    Raises:
        ProfileError: A site ran more than once, or the mask of padding does not fit.
        UnsupportedModelError: The model was built inside ``torch.inference_mode``.
    """
    check_can_train(sites)
    observed = ObservedPass(model, sites, rule, padding, omegas or {})
    with ExitStack() as stack:
        stack.enter_context(trial_pass(model))
        stack.enter_context(whole_pass(model))
        for site in sites:
            for handle in site.observe(observed):
                stack.callback(handle.remove)
        if train:
            model.train()
        # Sites in the skip form have hooks of their own.
        if not (again and all(isinstance(site, SkipSite) for site in sites)):
            stack.enter_context(observed.graph)
        run()
    return observed


def check_can_train(sites: Sequence[ResidualSite]) -> None:
    """Raise an UnsupportedModelError if weights were made inside ``torch.inference_mode``."""
    for site in sites:
        if site.template.is_inference() or (site.omega is not None and site.omega.is_inference()):
            raise UnsupportedModelError(
                f"The weights around `{site.name}` were made inside `torch.inference_mode`, so "
                "they cannot be trained. Build the model outside of it."
            )


class ObservedPass:
    """What one forward pass computed; values stay on the device until :meth:`variances`."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[ResidualSite],
        rule: OmegaRule,
        padding: Padding | None,
        omegas: Mapping[str, float],
    ) -> None:
        self.graph = ForwardGraph(model, self._before_operation)
        self._rule = rule
        self._omegas = omegas
        self._padding = padding
        self._branches = {site.branch: site for site in sites if isinstance(site, BranchSite)}
        streams = [site for site in sites if isinstance(site, StreamSite)]
        self._streams = running_streams(self.graph, streams) if streams else None
        self._branch: dict[str, Tensor] = {}
        self._shortcut: dict[str, Tensor] = {}
        self._sites: list[tuple[ResidualSite, int, str]] = []
        self._running: dict[ResidualSite, Tensor] = {}
        self._dtypes: dict[ResidualSite, torch.dtype] = {}

    def omega(self, site: ResidualSite) -> Tensor:
        """Return the omega to use at ``site`` in this pass: a float32 or float64 scalar."""
        if site.previous in self._running:
            return self._running[site.previous]
        dtype = torch.promote_types(site.template.dtype, torch.float32)
        return site.template.new_full((), self._omegas.get(site.name, 1.0), dtype=dtype)

    def computed_in(self, site: ResidualSite, dtype: torch.dtype) -> None:
        """Note the type in which the branch was computed, if it is not that of f(x) in the sum."""
        self._dtypes[site] = dtype

    def record(self, site: ResidualSite, shortcut: Tensor, branch: Tensor) -> None:
        """Record x and f(x), as they enter the sum."""
        if site.name in self._branch:
            raise ProfileError(
                f"`{site.name}` ran twice in one forward pass, so its branch has no single "
                "variance. Admin does not apply to a layer that is shared between depths. "
                "Otherwise, pass a `forward=` that calls the layer once."
            )
        with hidden(), torch.no_grad():
            dtype = _short(self._dtypes.get(site, branch.dtype))
            if self._padding is not None:
                shortcut, branch = (self._padding.leave_out(site, x) for x in (shortcut, branch))
            self._sites.append((site, branch.numel(), dtype))
            self._shortcut[site.name] = variance(shortcut)
            self._branch[site.name] = variance(branch)
            if self._rule.name == "reference":
                scaled = self.omega(site).square() * self._shortcut[site.name]
                total = scaled + self._branch[site.name]
                # Where both terms are constant, the chain begins after this site.
                self._running[site] = torch.where(total > 0, total.sqrt(), torch.ones_like(total))

    def check_ran(self, sites: Sequence[ResidualSite]) -> None:
        """Raise a ProfileError if a site did not run."""
        missing = [site.name for site in sites if site.name not in self._branch]
        if missing:
            raise ProfileError(
                f"{len(missing)} of {len(sites)} residual connections never ran in the forward "
                f"pass ({some(missing)}). Pass a `forward=` that runs the whole model once, or "
                "leave them out with `exclude=`."
            )

    def variances(self, sites: Sequence[ResidualSite]) -> list[SiteVariances]:
        """Return one entry per site, in the order of execution.

        Raises:
            ProfileError: A site did not run, or ran before the one that its omega depends on.
        """
        self.check_ran(sites)
        for stack_name, chain in stacks(sites).items():
            names = [site.name for site in chain]
            executed = [site.name for site, *_ in self._sites if site.stack == stack_name]
            if executed != names:
                raise ProfileError(
                    f"The sub-layers of `{stack_name}` ran in another order ({some(executed)}) "
                    f"than the model defines them in ({some(names)}), but each omega depends on "
                    "the one before. Define them in the order of execution."
                )
        shortcuts = _read(self._shortcut.values())
        branches = _read(self._branch.values())
        return [
            SiteVariances(
                name=site.name,
                stack=site.stack,
                previous=None if site.previous is None else site.previous.name,
                record=site.record() if site.computed else None,
                dtype=dtype,
                shortcut=PooledVariance(count, shortcut),
                branch=PooledVariance(count, branch),
            )
            for (site, count, dtype), shortcut, branch in zip(
                self._sites, shortcuts, branches, strict=True
            )
        ]

    def _before_operation(
        self, op: str, tensors: list[Tensor], inputs: list[Value], constants: tuple[Any, ...]
    ) -> None:
        # Streams are to be asked about every operation.
        if self._streams and (added := self._streams.terms(op, inputs)) is not None:
            stream, *both = added
            with hidden(), torch.no_grad():
                x, f = (entering(op, tensors, constants, inputs.index(term)) for term in both)
                self._add_to_stream(stream, x, f)
            return
        summed = terms(op, inputs) if self._branches else None
        if summed is None:
            return
        shortcut, branch = summed
        for output in outputs_ending(branch, shortcut):
            site = self._branches.get(output.call.module)
            if site is not None and site.ends_at(output.leaf):
                with hidden(), torch.no_grad():
                    x, f = (entering(op, tensors, constants, inputs.index(term)) for term in summed)
                    f = f * self.omega(site).to(f.dtype)
                self.record(site, x, f)
                return

    def _add_to_stream(self, site: StreamSite, x: Tensor, f: Tensor) -> None:
        """Record a sum x + f(x): x_0 where it is the first of its stream, and the branch."""
        dtype = _short(f.dtype)
        if self._padding is not None:
            x, f = (self._padding.leave_out(site, term) for term in (x, f))
        if site.name in self._branch:
            self._branch[site.name] = self._branch[site.name] + variance(f)
            return
        self._sites.append((site, f.numel(), dtype))
        self._shortcut[site.name] = variance(x) / self.omega(site).square()
        self._branch[site.name] = variance(f)


def _read(scalars: Iterable[Tensor]) -> list[float]:
    values: list[float] = torch.stack(list(scalars)).tolist()
    return values


def _short(dtype: torch.dtype) -> str:
    return {"bfloat16": "bf16"}.get(name := str(dtype).removeprefix("torch."), name).replace(
        "float", "fp"
    )


def some(names: Sequence[str]) -> str:
    """Quote the first of ``names``."""
    return ", ".join(f"`{name}`" for name in names[:3]) + (" ..." if len(names) > 3 else "")
