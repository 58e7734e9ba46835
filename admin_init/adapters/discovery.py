"""Discovery of residual sites in layers of known families."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

from torch import nn

from admin_init.adapters import huggingface, native, torch_nn
from admin_init.adapters.patterns import SitePattern, named_sites
from admin_init.adapters.registry import adapter_of, served_layers
from admin_init.errors import NotPostLNError, UnsupportedModelError
from admin_init.sites import ResidualSite, link_stacks

__all__ = ["Sites", "find_sites", "huggingface", "native", "resolve_sites", "torch_nn"]

Sites = Sequence[ResidualSite] | Sequence[SitePattern]
"""Type of every ``sites=`` argument: residual sites, or patterns that name them."""


def resolve_sites(model: nn.Module, sites: Sites | None = None) -> list[ResidualSite]:
    """Return the residual sites that a ``sites=`` argument specifies.

    Args:
        model: Any module.
        sites: Sites of ``model``, or patterns for :func:`admin_init.named_sites`. By default,
            :func:`find_sites` finds the sites.

    Returns:
        The sites.

    Raises:
        UnsupportedModelError: The model has no site, or a pattern matches no module.
        TypeError: ``sites`` has another type.
    """
    if sites is None:
        return find_sites(model)
    given = list(sites) if isinstance(sites, Sequence) else [sites]
    if all(isinstance(site, ResidualSite) for site in given):
        return cast("list[ResidualSite]", given)
    if all(isinstance(site, SitePattern) for site in given):
        return named_sites(model, cast("list[SitePattern]", given))
    raise TypeError(
        "`sites` must be a list of SitePatterns, or of sites from `find_sites` or `named_sites`, "
        f"but is {str(sites)[:100]}."
    )


def find_sites(model: nn.Module) -> list[ResidualSite]:
    """Find every residual connection that Admin can rescale.

    Args:
        model: Any module that contains Post-LN Transformer layers of a known family.

    Returns:
        The sites in the order in which the model defines them, stack by stack.

    Raises:
        NotPostLNError: All layers of known families are Pre-LN.
        UnsupportedModelError: No layer belongs to a known family, or one layer object is used at
            several depths.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> [site.name for site in admin_init.find_sites(model)][:2]
        ['layers.0.self_attn', 'layers.0.ffn']
    """
    if sys.modules.get("fairseq") is not None:
        # A model can have fairseq's layers only if fairseq is imported.
        from admin_init.adapters import fairseq  # noqa: F401, PLC0415
    sites: list[ResidualSite] = []
    not_post_ln: list[str] = []
    for name, layer in model.named_modules():
        adapter = adapter_of(layer)
        if adapter is None:
            continue
        try:
            sites += adapter(layer, name, model)
        except NotPostLNError as error:
            not_post_ln.append(str(error))
    shared = list(_shared_layers(model))
    if shared:
        raise UnsupportedModelError(
            f"One layer is used at several depths: {', '.join(shared)}. Its branch would need a "
            "different omega at each depth. Build one layer per depth, or train without Admin."
        )
    if not sites and not_post_ln:
        raise NotPostLNError(
            "Admin rescales the shortcuts of Post-LN layers, but the layers found here are not: "
            f"{'; '.join(not_post_ln[:3])}{' ...' if len(not_post_ln) > 3 else ''}. Build it with "
            "norm_first=False (in fairseq: normalize_before=False), take another model if it has "
            "no such option, or train it without Admin: Pre-LN does not need it."
        )
    if not sites:
        raise UnsupportedModelError(
            f"No residual connection was found in {type(model).__name__}. Known layers: "
            f"{', '.join(served_layers())}, and subclasses that keep their forward. For another "
            "Post-LN model, name the sites with `admin_init.named_sites`."
        )
    _shorten_stacks(sites)
    return link_stacks(sites)


def _shared_layers(model: nn.Module) -> Iterator[str]:
    for container_name, container in model.named_modules():
        children = Counter(child for child in container._modules.values() if child is not None)
        for layer, uses in children.items():
            if uses > 1 and adapter_of(layer) is not None:
                yield f"{type(layer).__name__}, {uses} times in `{container_name or 'the model'}`"


def _shorten_stacks(sites: list[ResidualSite]) -> None:
    # `encoder` reads better than `model.transformer.encoder`, if it is unambiguous.
    paths = {site.stack for site in sites}
    short = Counter(path.rpartition(".")[2] for path in paths)
    for site in sites:
        last = site.stack.rpartition(".")[2]
        if short[last] == 1 and not last.isdigit():
            site.stack = last
