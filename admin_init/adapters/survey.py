"""Survey of a model: the residual connections that Admin rescales, and why it skips others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from torch import nn

from admin_init.adapters.computation.sites import Computed
from admin_init.adapters.discovery import Sites, checked_sites, compute_sites, resolve_sites
from admin_init.adapters.registry import adapter_of
from admin_init.adapters.stream_form import StreamSite
from admin_init.errors import NotPostLNError, UnsupportedModelError
from admin_init.omega import OmegaRule
from admin_init.sites import ResidualSite


@dataclass(frozen=True)
class Survey:
    """Result of :func:`survey`."""

    sites: list[ResidualSite]
    """The residual sites that Admin rescales, in order."""
    others: dict[str, str]
    """The other layers and norms by name, each with the reason why Admin skips it."""
    problem: str | None
    """The reason why there are no sites, or None."""

    def table(self) -> Table:
        """Return a table of the sites for a terminal."""
        view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("", "residual connection", "stack", "D", "norm"):
            view.add_column(column, overflow="fold")
        for number, site in enumerate(self.sites, start=1):
            kind = "" if site.norm is None else type(site.norm).__name__
            view.add_row(str(number), site.name, site.stack, str(site.width), kind)
        return view


def survey(
    model: nn.Module,
    sites: Sites | None = None,
    batch: Any = None,
    rule: OmegaRule | None = None,
) -> Survey:
    """Find the residual connections of a model, and the layers and norms that Admin skips.

    Args:
        model: Any module.
        sites: Residual sites, or patterns that name them (see :func:`admin_init.named_sites`).
            Default: the sites that a forward pass shows, or those of all layers of known families.
        batch: A batch for that forward pass, if it is to be made.
        rule: The rule for omega, see :func:`admin_init.find_sites`.

    Returns:
        The sites, the skipped layers and norms, and the reasons.

    Examples:
        >>> from torch import nn
        >>> layer = nn.TransformerEncoderLayer(16, nhead=2, norm_first=True)
        >>> survey(nn.Sequential(layer)).others
        {'0': '`0` is Pre-LN (norm_first=True)'}
    """
    if sites is None and batch is not None:
        return _computed_survey(model, compute_sites(model, batch, rule=rule))
    problem = None
    try:
        found = resolve_sites(model, sites)
    except UnsupportedModelError as error:
        found, problem = [], str(error)
    others = refused_layers(model) if sites is None else {}
    # Some libraries wrap a norm in a norm of their own.
    norms = {id(module) for site in found for module in (site.norm.modules() if site.norm else ())}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{layer}.") for layer in others)
        if _is_norm(module) and id(module) not in norms and not inside:
            others[name] = (
                f"`{name}`, a {type(module).__name__}, follows no residual connection found here"
            )
    return Survey(found, others, problem)


def _computed_survey(model: nn.Module, computed: Computed) -> Survey:
    others = {name: f"`{name}`: {reason}" for name, reason in computed.left_out.items()}
    if not any(isinstance(site, StreamSite) for site in computed.sites):
        others |= {name: f"`{name}` is Pre-LN" for name in computed.pre_ln}
    try:
        return Survey(checked_sites(model, computed), others, None)
    except UnsupportedModelError as error:
        return Survey([], others, str(error))


def refused_layers(model: nn.Module) -> dict[str, str]:
    """Map the name of every layer of a known family that Admin refuses to the reason."""
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
    # Libraries have their own classes; only the name is common.
    return type(module).__name__.lower().endswith("norm")
