"""Residual sites as the computation of one forward pass shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from admin_init.adapters.branch_form import BranchSite
from admin_init.adapters.computation.branch_ends import BranchEnd, branch_end, fold_weights
from admin_init.adapters.computation.graph import ForwardGraph, descends
from admin_init.adapters.computation.paths import readers
from admin_init.adapters.computation.residuals import (
    Residual,
    find_residuals,
    mixed_sources,
    source,
)
from admin_init.adapters.copies import Copy, copied_modules, copy_of_none, split_copies
from admin_init.errors import FoldError, UnsupportedModelError
from admin_init.sites import BranchPlace, ResidualSite, layer_stack


@dataclass(frozen=True)
class Computed:
    """The residual connections of one forward pass."""

    sites: list[ResidualSite] = field(default_factory=list)
    """Those that Admin can rescale, in the order of execution, linked along the computation."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The other Post-LN ones: what they are, and the reason why Admin cannot rescale them."""
    pre_ln: list[str] = field(default_factory=list)
    """The Pre-LN ones."""
    copies: list[Copy] = field(default_factory=list)
    """Those in frozen copies of modules, whether or not they ran."""

    def keep(self, sites: Sequence[ResidualSite]) -> None:
        """Leave out all others than ``sites``."""
        for site in [site for site in self.sites if site not in sites]:
            self.sites.remove(site)
            self.left_out[site.name] = (
                "it was not known when the optimizer was built; pass `AdminInit(sites=...)`"
            )
        for site in self.sites:
            if site.previous not in self.sites:
                site.previous = None
        self.copies[:] = [copy for copy in self.copies if copy.site in sites]

    def separate_copies(
        self, model: nn.Module, known: Sequence[ResidualSite], exclude: Sequence[str]
    ) -> None:
        """Take the sites in frozen copies of modules from the others."""
        modules = copied_modules(model)
        for site, original in list(copy_of_none(self.sites, modules)):
            self.sites.remove(site)
            self.left_out[site.name] = f"it is a copy of `{original}`, which has no omega"
        self.sites[:], copies = split_copies(model, self.sites, modules, known)
        served = {copy.site.norm for copy in copies}
        norms = (name for name, module in model.named_modules() if module in served)
        # A copy may run several times.
        for name in (*norms, *(copy.site.name for copy in copies)):
            self.left_out.pop(name, None)
        self.copies.extend(copy for copy in copies if not is_excluded(copy.site.name, exclude))


def computed_sites(
    model: nn.Module,
    graph: ForwardGraph,
    known: Sequence[ResidualSite] = (),
    exclude: Sequence[str] = (),
) -> Computed:
    """Return the residual connections in the graph of a forward pass.

    Args:
        model: The model that ran.
        graph: The graph of its pass.
        known: Sites of layers of known families, which are kept where the computation shows a
            Post-LN connection with the same norm. Their chain is changed to that of the
            computation.
        exclude: Patterns of names to leave out without a reason, see :func:`is_excluded`.

    Raises:
        UnsupportedModelError: The whole model is compiled by TorchScript.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(f"{type(model).__name__}: {_SCRIPTED}.")
    residuals = find_residuals(graph)
    ends = {residual: _end(residual, graph) for residual in residuals}
    names = ModuleNames(model, graph, ends)
    post = [residual for residual in residuals if residual.kind == "Post-LN"]
    by_output = {residual.norm.output: residual for residual in post}
    by_norm = {site.norm: site for site in known}
    before = {residual: source(residual.shortcut, by_output) for residual in post}
    followed = set(before.values())
    runs = Counter(residual.norm_module for residual in post)
    shared = Counter(e.output.call.module for e in ends.values() if isinstance(e, BranchEnd))
    found = Computed(pre_ln=[names.of(r) for r in residuals if r.kind == "Pre-LN"])
    site_of: dict[Residual, ResidualSite] = {}
    for residual in post:
        norm = residual.norm_module
        site = None if norm is None else by_norm.get(norm)
        name = names.of(residual) if site is None else site.name
        if is_excluded(name, exclude):
            continue
        previous = before[residual]
        try:
            if norm is not None and runs[norm] > 1:
                raise UnsupportedModelError(
                    f"its norm, `{names[norm]}`, runs {runs[norm]} times in one pass, as in layers "
                    "that are shared between depths"
                )
            if previous is None and (mixed := mixed_sources(residual.shortcut, by_output)):
                raise UnsupportedModelError(
                    "its shortcut is computed from the output of the norm of "
                    f"`{names.of(mixed[0])}`, but is not that output itself"
                )
            if residual.obstacle is not None:
                raise UnsupportedModelError(residual.obstacle)
            if previous is None and residual not in followed and residual.follows_a_sum:
                raise UnsupportedModelError(
                    "its shortcut is itself a sum of a shortcut and a branch, which no norm reads "
                    "between them, so it is not Post-LN"
                )
            if site is None:
                end = ends[residual]
                if isinstance(end, UnsupportedModelError):
                    raise end
                if shared[end.output.call.module] > 1:
                    raise UnsupportedModelError(
                        f"its branch ends in the same module, `{name}`, as another one"
                    )
                site = _branch_site(model, names, residual, end)
        except UnsupportedModelError as error:
            found.left_out[name] = str(error)
            continue
        site.previous = None if previous is None else site_of.get(previous)
        site.computed = True
        if previous is not None and not isinstance(site, BranchSite):
            site.computed_fold_problem = _other_readers(previous, residual)
        site_of[residual] = site
        found.sites.append(site)
    found.left_out.update(
        (name, _SCRIPTED) for name in _scripted(model) if not is_excluded(name, exclude)
    )
    found.separate_copies(model, known, exclude)
    name_stacks(found.sites)
    return found


_SCRIPTED = (
    "it is compiled by TorchScript, which shows no modules that omega could be added to; rescale "
    "and fold the model before it is scripted"
)


def _scripted(model: nn.Module) -> Iterator[str]:
    """Yield the names of the modules with norms that are compiled by TorchScript."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not isinstance(
            model.get_submodule(name.rpartition(".")[0]), torch.jit.ScriptModule
        ):
            kinds = (getattr(inner, "original_name", "") for inner in module.modules())
            if any("norm" in kind.lower() for kind in kinds):
                yield name


def _end(residual: Residual, graph: ForwardGraph) -> BranchEnd | UnsupportedModelError:
    try:
        return branch_end(residual, graph)
    except UnsupportedModelError as error:
        return error


def _branch_site(
    model: nn.Module, names: ModuleNames, residual: Residual, end: BranchEnd
) -> BranchSite:
    problem, weights = None, {}
    try:
        weights = {names.parameters[weight]: axis for weight, axis in fold_weights(end)}
    except FoldError as error:
        problem = str(error)
    name = names[end.output.call.module]
    place = BranchPlace(
        branch=name,
        norm=names.norm(residual) or None,
        width=residual.width,
        leaf=end.output.leaf,
        axis=end.axis,
        container=None if end.turn is None else names[end.turn.container],
        call=None if end.turn is None else end.turn.number,
        weights=weights,
    )
    site = BranchSite(model, name, layer_stack(name, "layers"), place)
    site.computed_fold_problem = problem
    return site


def _other_readers(previous: Residual, residual: Residual) -> str | None:
    """Say what else than a sub-layer reads the output of the norm before it, if anything does.

    The skip form folds omega into that norm and into the weights of the sub-layer.
    """
    output = previous.norm.output
    for reader in readers(output):
        mine = reader is residual.sum or descends(residual.sum, reader)
        if (reader.readers or reader.outputs) and not mine:
            return f"the operation `{reader.op}` also reads the output of the norm before it"
    if any(returned.call.stop > residual.sum.index for returned in output.outputs):
        return "the output of the norm before it is also an output of the model"
    return None


def included(sites: Sequence[ResidualSite], exclude: Sequence[str]) -> list[ResidualSite]:
    """Return the sites that no pattern excludes; after one that is, a new chain begins."""
    kept = [site for site in sites if not is_excluded(site.name, exclude)]
    for site in kept:
        if site.previous not in kept:
            site.previous = None
    return kept


def is_excluded(name: str, exclude: Sequence[str]) -> bool:
    """Return whether a pattern matches the name, or the name of a module around it.

    In a pattern, ``*`` stands for any text, and ``?`` for one character.
    """
    parts = name.split(".")
    around = [".".join(parts[:stop]) for stop in range(1, len(parts) + 1)]
    return any(fnmatchcase(module, pattern) for pattern in exclude for module in around)


def name_stacks(sites: Sequence[ResidualSite]) -> None:
    """Give every chain of sites a stack of its own. Where a chain forks, new ones begin."""
    followed: set[ResidualSite] = set()
    taken: Counter[str] = Counter()
    for site in sites:
        if site.previous is not None and site.previous not in followed:
            followed.add(site.previous)
            site.stack = site.previous.stack
            continue
        taken[site.stack] += 1
        if taken[site.stack] > 1:
            site.stack = f"{site.stack}:{taken[site.stack]}"
    shorten_stacks(sites)


def shorten_stacks(sites: Sequence[ResidualSite]) -> None:
    """Shorten the names of stacks to their last part where that is unambiguous."""
    # `encoder` reads better than `model.transformer.encoder`.
    short = Counter(path.rpartition(".")[2] for path in {site.stack for site in sites})
    for site in sites:
        last = site.stack.rpartition(".")[2]
        if short[last] == 1 and not last.partition(":")[0].isdigit():
            site.stack = last


class ModuleNames(dict[nn.Module, str]):
    """Qualified names of modules, of parameters, and of the residual connections in a graph."""

    def __init__(
        self,
        model: nn.Module,
        graph: ForwardGraph,
        ends: Mapping[Residual, BranchEnd | UnsupportedModelError],
    ) -> None:
        super().__init__((module, name) for name, module in model.named_modules())
        self.parameters = {parameter: name for name, parameter in model.named_parameters()}
        self._graph = graph
        self._ends = ends
        self._sums: dict[str, list[int]] = {}

    def of(self, residual: Residual) -> str:
        """Return the name of the module at which the branch ends, or else of the norm."""
        end = self._ends.get(residual)
        name = self.get(end.output.call.module) if isinstance(end, BranchEnd) else None
        return name or self.norm(residual) or self._layer(residual)

    def norm(self, residual: Residual) -> str:
        """Return the name of the norm; empty if it is no module."""
        return "" if residual.norm_module is None else self[residual.norm_module]

    def _layer(self, residual: Residual) -> str:
        """Return the name of the layer that computes the sum, numbered if it has several."""
        index = residual.sum.index
        inside = [call for call in self._graph.calls if call.start <= index < call.stop]
        name, start = (self[inside[-1].module], inside[-1].start) if inside else ("", 0)
        places = self._sums.setdefault(name, [])
        # One layer at several depths computes its sum at the same place of each call.
        if index - start not in places:
            places.append(index - start)
        number = places.index(index - start) + 1
        return f"{name or 'the model'}{f':{number}' if number > 1 else ''}"
