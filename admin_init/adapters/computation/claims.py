"""Comparison of given residual sites with what the model computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from admin_init.adapters.branch_form import BranchSite
from admin_init.adapters.computation.branch_ends import branch_end, fold_weights, outputs_ending
from admin_init.adapters.computation.graph import ForwardGraph
from admin_init.adapters.computation.residuals import Residual, find_residuals, source
from admin_init.adapters.computation.sites import ModuleNames
from admin_init.adapters.stream_form import StreamSite
from admin_init.errors import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.sites import ResidualSite


def check_sites(model: nn.Module, graph: ForwardGraph, sites: Sequence[ResidualSite]) -> None:
    """Compare given sites with the graph of a forward pass in which all of them ran.

    Raises:
        NotPostLNError: The connection of a site is Pre-LN.
        UnsupportedModelError: The norm, the site before or the end of a branch is another one.
    """
    # A stream whose sums lead back to its site was measured; nothing else is to be compared.
    others = [site for site in sites if not isinstance(site, StreamSite)]
    problems = list(_problems(ModuleNames(model, graph, {}), graph, others))
    if problems:
        raise UnsupportedModelError(
            f"The given sites differ from what the model computes: {'; '.join(problems)}. Correct "
            "them, or leave `sites=` out."
        )


def _problems(
    names: ModuleNames, graph: ForwardGraph, sites: Sequence[ResidualSite]
) -> Iterator[str]:
    residuals = find_residuals(graph)
    by_output = {r.norm.output: r for r in residuals if r.kind == "Post-LN"}
    residual_of = {site: _residual(site, residuals) for site in sites}
    site_of = {residual: site for site, residual in residual_of.items()}
    for site, residual in residual_of.items():
        norm = "no module" if site.norm is None else f"`{names.get(site.norm, '?')}`"
        if residual is None:
            yield (
                f"`{site.name}` is given with the norm {norm}, but no sum of its output is read by "
                "a norm and by nothing else"
            )
            continue
        computed = f"`{names.norm(residual)}`" if residual.norm_module else "no module"
        if residual.kind == "Pre-LN":
            raise NotPostLNError(
                f"`{site.name}` is given as Post-LN, with the norm {norm}, but it is computed as "
                f"Pre-LN, with the norm {computed} before it. Train it without Admin: Pre-LN does "
                "not need it."
            )
        if residual.obstacle is not None:
            yield f"`{site.name}` cannot have an omega: {residual.obstacle}"
        if residual.norm_module not in (site.norm.modules() if site.norm else (None,)):
            yield f"the norm of `{site.name}` is given as {norm}, but computed as {computed}"
        before = source(residual.shortcut, by_output)
        while before is not None and before not in site_of:
            before = source(before.shortcut, by_output)  # one that was not named
        previous = None if before is None else site_of[before]
        if previous is not site.previous:
            yield (
                f"`{site.name}` is given as following {_name(site.previous)}, but is computed as "
                f"following {_name(previous)}"
            )
        yield from _weights(site, residual, graph)


def _residual(site: ResidualSite, residuals: Sequence[Residual]) -> Residual | None:
    """Return the connection of a site, which is Post-LN if one is."""
    fitting = [residual for residual in residuals if _fits(site, residual)]
    return min(fitting, key=lambda residual: residual.kind != "Post-LN", default=None)


def _fits(site: ResidualSite, residual: Residual) -> bool:
    if not isinstance(site, BranchSite):
        return residual.norm_module is site.norm
    return any(
        output.call.module is site.branch and output.leaf == site.place.leaf
        for output in outputs_ending(residual.branch, residual.shortcut)
    )


def _weights(site: ResidualSite, residual: Residual, graph: ForwardGraph) -> Iterator[str]:
    """Compare the weights that a fold would change with those at the end of the branch."""
    if not isinstance(site, BranchSite):
        return
    try:
        given = [weight for weight, _ in site.weights()]
    except FoldError:
        return
    if not all(isinstance(weight, nn.Parameter) for weight in given):
        return  # computed from other weights, which the fold refuses
    try:
        computed = [weight for weight, _ in fold_weights(branch_end(residual, graph))]
    except (FoldError, UnsupportedModelError) as error:
        yield f"the `linear` of `{site.name}` is not at the end of its branch: {error}"
        return
    if {id(weight) for weight in given} != {id(weight) for weight in computed}:
        yield f"another module than the `linear` of `{site.name}` is at the end of its branch"


def _name(site: ResidualSite | None) -> str:
    return "no other" if site is None else f"`{site.name}`"
