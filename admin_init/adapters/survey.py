"""Which residual connections of a model Admin rescales, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from torch import nn

from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.adapters.registry import adapter_of
from admin_init.errors import NotPostLNError, UnsupportedModelError
from admin_init.sites import ResidualSite


@dataclass(frozen=True)
class Survey:
    """What was found in a model."""

    sites: list[ResidualSite]
    """The residual connections that are served, in the order in which they are rescaled."""
    others: dict[str, str]
    """Why a layer or a norm is not among them, by its name in the model."""
    problem: str | None
    """Why there are no sites; None where there are."""

    def table(self) -> Table:
        """Lay out the sites for a terminal, in their order."""
        view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("", "residual connection", "stack", "D", "norm"):
            view.add_column(column, overflow="fold")
        for number, site in enumerate(self.sites, start=1):
            kind = type(site.norm).__name__
            view.add_row(str(number), site.name, site.stack, str(site.width), kind)
        return view


def survey(model: nn.Module, sites: Sites | None = None) -> Survey:
    """Find the residual connections of ``model``, and the layers and norms that are left over.

    Args:
        model: Any module.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Example::

        found = survey(model)
        for reason in found.others.values():
            print(reason)
    """
    problem = None
    try:
        found = resolve_sites(model, sites)
    except UnsupportedModelError as error:
        found, problem = [], str(error)
    others = refused_layers(model) if sites is None else {}
    # With what some libraries wrap in a norm of their own.
    norms = {id(module) for site in found for module in site.norm.modules()}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{layer}.") for layer in others)
        if _is_norm(module) and id(module) not in norms and not inside:
            others[name] = (
                f"`{name}`, a {type(module).__name__}, ends no residual connection found here"
            )
    return Survey(found, others, problem)


def refused_layers(model: nn.Module) -> dict[str, str]:
    """Say of every layer of a known family that has no sites why that is so, by its name."""
    reasons = {}
    for name, layer in model.named_modules():
        adapter = adapter_of(layer)
        if adapter is not None:
            try:
                adapter(layer, name, model)
            except (NotPostLNError, UnsupportedModelError) as error:
                reasons[name] = str(error)
    return reasons


def _is_norm(module: nn.Module) -> bool:
    # Every library has a class of its own, and they agree on the name alone.
    return type(module).__name__.lower().endswith("norm")
