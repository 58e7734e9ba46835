"""Discovery of residual sites: in layers of known families, and by what a model computes."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from admin_init._utils.isolation import trial_pass, whole_pass
from admin_init.adapters import native, torch_nn
from admin_init.adapters.computation.graph import ForwardGraph
from admin_init.adapters.computation.sites import (
    Computed,
    computed_sites,
    included,
    shorten_stacks,
)
from admin_init.adapters.computation.stream_starts import stream_sites
from admin_init.adapters.patterns import SitePattern, named_sites
from admin_init.adapters.records import load_sites, stored_sites
from admin_init.adapters.registry import adapter_of, served_layers
from admin_init.errors import NotPostLNError, UnsupportedModelError
from admin_init.omega import OmegaRule, Rule
from admin_init.sites import ResidualSite, link_stacks

__all__ = ["Sites", "find_sites", "native", "resolve_sites", "torch_nn"]

Forward = Callable[[Any, Any], object]
"""Runs a model on a batch; its return value is ignored."""

Sites = Sequence[ResidualSite] | Sequence[SitePattern] | str | os.PathLike[str]
"""Type of every ``sites=`` argument: residual sites, patterns that name them, or a file of
:func:`admin_init.save_sites`."""


def resolve_sites(model: nn.Module, sites: Sites | None = None) -> list[ResidualSite]:
    """Return the residual sites that a ``sites=`` argument specifies.

    Args:
        model: Any module.
        sites: Sites of ``model``, patterns for :func:`admin_init.named_sites`, or a file written by
            :func:`admin_init.save_sites`. By default, :func:`find_sites` finds the sites.

    Returns:
        The sites.

    Raises:
        UnsupportedModelError: The model has no site, or a pattern matches no module.
        TypeError: ``sites`` has another type.
    """
    if sites is None:
        return find_sites(model)
    if isinstance(sites, str | os.PathLike):
        return load_sites(model, sites, known_sites(model))
    given = list(sites) if isinstance(sites, Sequence) else [sites]
    if all(isinstance(site, ResidualSite) for site in given):
        return cast("list[ResidualSite]", given)
    if all(isinstance(site, SitePattern) for site in given):
        return named_sites(model, cast("list[SitePattern]", given))
    raise TypeError(
        "`sites` must be a list of SitePatterns, or of sites from `find_sites` or `named_sites`, "
        "or the path of a file written by `save_sites`, "
        f"but is {str(sites)[:100]}."
    )


def find_sites(
    model: nn.Module,
    batch: Any = None,
    *,
    forward: Forward | None = None,
    exclude: Sequence[str] = (),
    rule: Rule = "reference",
) -> list[ResidualSite]:
    """Find every residual connection that Admin can rescale.

    With a batch, the model makes one forward pass without gradients, and the connections are found
    by what it computes: sums of x and f(x), where f(x) was computed from x, that a norm and nothing
    else reads. The model is as before afterwards. Without a batch, only layers of known families
    are found.

    Args:
        model: Any module.
        batch: A batch of the model.
        forward: Called as ``forward(model, batch)``, see :func:`admin_init.profile`.
        exclude: Patterns of connections to leave out, such as ``["backbone", "*.teacher.*"]``. A
            pattern is compared with the name of the connection and of all modules around it.
        rule: With ``share`` and a batch, the inputs of Pre-LN streams are found, too.

    Returns:
        The sites: with a batch in the order of execution, each linked to the site whose norm puts
        out its shortcut, and then those of frozen copies that did not run, such as a teacher;
        otherwise in the order in which the model defines them, stack by stack.

    Raises:
        NotPostLNError: All connections found are Pre-LN.
        UnsupportedModelError: No connection was found, or Admin can rescale none.

    Warns:
        UserWarning: There are other Post-LN connections; the warning names them, with the reasons.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> [site.name for site in admin_init.find_sites(model)][:2]
        ['layers.0.self_attn', 'layers.0.ffn']
        >>> class Layer(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mix, self.norm = torch.nn.Linear(16, 16), torch.nn.LayerNorm(16)
        ...
        ...     def forward(self, x):
        ...         return self.norm(x + self.mix(x))
        >>> model = torch.nn.Sequential(Layer(), Layer())
        >>> [site.name for site in admin_init.find_sites(model, torch.randn(4, 16))]
        ['0.mix', '1.mix']
    """
    if batch is None:
        return included(_known_sites(model), exclude)
    computed = compute_sites(model, batch, forward=forward, exclude=exclude, rule=OmegaRule(rule))
    warn_left_out(computed)
    return checked_sites(model, computed) + [copy.site for copy in computed.copies]


def compute_sites(
    model: nn.Module,
    batch: Any,
    *,
    forward: Forward | None = None,
    exclude: Sequence[str] = (),
    rule: OmegaRule | None = None,
) -> Computed:
    """Return all residual connections of one forward pass, see :func:`find_sites`."""
    graph = ForwardGraph(model)
    with trial_pass(model), whole_pass(model), graph:
        (forward or call_model)(model, batch)
    known = known_sites(model)
    computed = computed_sites(model, graph, known, exclude)
    if rule is not None and rule.share is not None:
        computed.sites.extend(stream_sites(model, graph, exclude, known))
    return computed


def known_sites(model: nn.Module) -> list[ResidualSite]:
    """Return the sites of layers of known families and those with stored records, or none."""
    return stored_sites(model, _family_sites(model)[0])


def checked_sites(model: nn.Module, computed: Computed) -> list[ResidualSite]:
    """Return the sites of a computation.

    Raises:
        NotPostLNError: All connections found are Pre-LN.
        UnsupportedModelError: There is none, or Admin can rescale none.
    """
    if computed.sites:
        return computed.sites
    if shared := _shared_problem(model):
        raise UnsupportedModelError(shared)
    if computed.left_out:
        raise UnsupportedModelError(
            f"Admin can rescale none of the {len(computed.left_out)} Post-LN connections of "
            f"{type(model).__name__}: {_reasons(computed)}."
        )
    if computed.pre_ln:
        _refuse_known_pre_ln(model)
        raise NotPostLNError(
            f"The {len(computed.pre_ln)} residual connections of {type(model).__name__} (such as "
            f"that of `{computed.pre_ln[0]}`) are Pre-LN, but Admin rescales the shortcuts of "
            f"Post-LN layers. Train it without Admin: {_PRE_LN}."
        )
    raise UnsupportedModelError(
        f"{type(model).__name__} computes no residual connection in this pass: no sum of x and "
        "f(x) that a norm, and nothing else, reads. Pass a `forward=` that runs the whole model."
    )


_PRE_LN = (
    'Pre-LN does not need it. Only `rule="share"` has something to scale in it: the input, which a '
    "forward pass shows"
)


def warn_left_out(computed: Computed) -> None:
    """Warn of the Post-LN connections that Admin cannot rescale, if there are others."""
    if computed.sites and computed.left_out:
        warnings.warn(
            f"Admin leaves {len(computed.left_out)} Post-LN connections of this model unchanged: "
            f"{_reasons(computed)}. Leave them out with `exclude=` if that is intended.",
            stacklevel=3,
        )


def _refuse_known_pre_ln(model: nn.Module) -> None:
    """Raise a NotPostLNError that says how to build layers of known families as Post-LN."""
    try:
        _known_sites(model)
    except NotPostLNError:
        raise
    except UnsupportedModelError:
        pass


def _reasons(computed: Computed) -> str:
    return "; ".join(f"`{name}`: {reason}" for name, reason in computed.left_out.items())


def _known_sites(model: nn.Module) -> list[ResidualSite]:
    sites, refused = _family_sites(model)
    stored = stored_sites(model, sites)
    if stored != sites:
        return stored
    others = [error for error in refused if not isinstance(error, NotPostLNError)]
    if others:
        raise others[0]
    if shared := _shared_problem(model):
        raise UnsupportedModelError(shared)
    if not sites and refused:
        reasons = "; ".join(str(error) for error in refused[:3])
        raise NotPostLNError(
            "Admin rescales the shortcuts of Post-LN layers, but the layers found here are not: "
            f"{reasons}{' ...' if len(refused) > 3 else ''}. Build it with "
            "norm_first=False (in fairseq: normalize_before=False), take another model if it has "
            f"no such option, or train it without Admin: {_PRE_LN}."
        )
    if not sites:
        raise UnsupportedModelError(
            f"No residual connection was found in {type(model).__name__}. Known layers: "
            f"{', '.join(served_layers())}, and subclasses that keep their forward. Those of "
            "another Post-LN model are found in a forward pass. Give a batch for it, as in "
            "`admin_init.find_sites(model, batch)` or `admin-init profile --batch`."
        )
    return sites


def _family_sites(model: nn.Module) -> tuple[list[ResidualSite], list[UnsupportedModelError]]:
    """Return the sites of layers of known families, and the reasons against other such layers."""
    if sys.modules.get("fairseq") is not None:
        # A model can have fairseq's layers only if fairseq is imported.
        from admin_init.adapters import fairseq  # noqa: F401, PLC0415
    sites: list[ResidualSite] = []
    refused: list[UnsupportedModelError] = []
    for name, layer in model.named_modules():
        adapter = adapter_of(layer)
        if adapter is not None:
            try:
                sites += adapter(layer, name, model)
            except UnsupportedModelError as error:
                refused.append(error)
    link_stacks(sites)
    shorten_stacks(sites)
    return sites, refused


def _shared_problem(model: nn.Module) -> str | None:
    """Say which layers of known families are used at several depths, if any are."""
    shared: list[str] = []
    for container_name, container in model.named_modules():
        children = Counter(child for child in container._modules.values() if child is not None)
        shared += [
            f"{type(layer).__name__}, {uses} times in `{container_name or 'the model'}`"
            for layer, uses in children.items()
            if uses > 1 and adapter_of(layer) is not None
        ]
    if not shared:
        return None
    return (
        f"One layer is used at several depths: {', '.join(shared)}. Its branch would need a "
        "different omega at each depth. Build one layer per depth, or train without Admin."
    )


def call_model(model: Callable[..., object], batch: Any) -> object:
    """Call ``model`` with the items of a mapping, tuple or list, or with ``batch`` itself."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)
