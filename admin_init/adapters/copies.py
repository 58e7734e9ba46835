"""Frozen copies of modules, such as the teacher of a student, which are rescaled alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from admin_init.adapters.class_swap import own_class
from admin_init.adapters.records import copied_site
from admin_init.sites import ResidualSite


class Copy(NamedTuple):
    """A site in a frozen copy."""

    site: ResidualSite
    original: str
    """Name of the site that it is a copy of."""


def split_copies(
    model: nn.Module,
    sites: Sequence[ResidualSite],
    modules: dict[str, str],
    known: Sequence[ResidualSite] = (),
) -> tuple[list[ResidualSite], list[Copy]]:
    """Separate the sites in frozen copies from all others, and create those that are missing.

    Args:
        model: The model.
        sites: Its sites; those of a copy that did not run may be missing.
        modules: Its :func:`copied_modules`.
        known: Sites of which some may be in copies.

    Returns:
        The sites that are to be profiled, and the copies.
    """
    by_name = {site.name: site for site in (*known, *sites)}
    copies: dict[str, Copy] = {}
    for name, original in _apart(modules, list(by_name.values())).items():
        for site in sites:
            if site.name.startswith(f"{original}.") and site.name not in copies:
                found = copied_site(model, site, f"{original}.", f"{name}.", by_name)
                if found is not None:
                    copies[found.name] = Copy(found, site.name)
    of = {copy.original: copy.site for copy in copies.values()}
    for copy in copies.values():
        one = by_name[copy.original]
        copy.site.previous = None if one.previous is None else of.get(one.previous.name)
        copy.site.computed = one.computed
        copy.site.computed_fold_problem = one.computed_fold_problem
    return [site for site in sites if site.name not in copies], list(copies.values())


def copy_of_none(
    sites: Sequence[ResidualSite], modules: dict[str, str]
) -> Iterator[tuple[ResidualSite, str]]:
    """Yield the sites in frozen copies whose originals are no sites, and the names of these."""
    names = {site.name for site in sites}
    for name, original in _apart(modules, sites).items():
        for site in sites:
            other = f"{original}.{site.name.removeprefix(f'{name}.')}"
            if site.name.startswith(f"{name}.") and other not in names:
                yield site, other


def copied_modules(model: nn.Module) -> dict[str, str]:
    """Map the name of every frozen copy of a module to that of the module, outermost ones first.

    A copy has the class and the parameters of a module that is not frozen; omegas do not count.
    """
    named = [(name, module) for name, module in model.named_modules() if name]
    frozen = [(name, module) for name, module in named if _is_frozen(module)]
    if not frozen:
        return {}
    originals: dict[Any, list[tuple[str, nn.Module]]] = {_key(module): [] for _, module in frozen}
    for name, module in named:
        if not _is_frozen(module) and (key := _key(module)) in originals:
            originals[key].append((name, module))
    found: dict[str, str] = {}
    for name, module in frozen:
        if any(name.startswith(f"{other}.") for other in found):
            continue
        equal = (other for other, original in originals[_key(module)] if _equal(module, original))
        if (original := next(equal, None)) is not None:
            found[name] = original
    return found


def _apart(copies: dict[str, str], sites: Sequence[ResidualSite]) -> dict[str, str]:
    """Leave out copies in a chain with other modules.

    Such are the frozen layers of ``nn.TransformerEncoder``, which builds all its layers equal.
    """
    links = [(site.name, site.previous.name) for site in sites if site.previous is not None]
    return {
        name: original
        for name, original in copies.items()
        if all(a.startswith(f"{name}.") == b.startswith(f"{name}.") for a, b in links)
    }


def _is_frozen(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for _, parameter in _parameters(module)]
    return bool(trained) and not any(trained)


def _key(module: nn.Module) -> Any:
    return own_class(module), tuple(
        (name, p.shape, p.dtype, p.device) for name, p in _parameters(module)
    )


def _equal(copy: nn.Module, original: nn.Module) -> bool:
    pairs = zip(_parameters(copy), _parameters(original), strict=True)
    return all(not left.is_meta and torch.equal(left, right) for (_, left), (_, right) in pairs)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] != "omega" and not nn.parameter.is_lazy(parameter):
            yield name, parameter
