"""Discovery of the residual sites of a model's known layers."""

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
"""What every ``sites=`` takes: residual connections that were found, or patterns of their names."""


def resolve_sites(model: nn.Module, sites: Sites | None = None) -> list[ResidualSite]:
    """Return the residual connections that a ``sites=`` argument stands for.

    Args:
        model: Any module.
        sites: Those of ``model``, as they were found; or what to find them by, see
            :func:`admin_init.named_sites`; by default :func:`find_sites` does.

    Raises:
        UnsupportedModelError: None is found, or a pattern matches nothing.
        TypeError: ``sites`` is something else.
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
        The sites in the order in which the model defines them, stack after stack.

    Raises:
        NotPostLNError: All the layers that were found are Pre-LN.
        UnsupportedModelError: No layer of a known family was found, or one layer object is used
            at several depths.
    """
    if sys.modules.get("fairseq") is not None:
        # Its adapter needs it, and a model has its layers only where it is imported.
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
            "different omega at each of them. Build one layer per depth, or train it without Admin."
        )
    if not sites and not_post_ln:
        raise NotPostLNError(
            "Admin rescales the shortcuts of Post-LN layers, but the layers found here are not: "
            f"{'; '.join(not_post_ln[:3])}{' ...' if len(not_post_ln) > 3 else ''}. Build it with "
            "norm_first=False (in fairseq: normalize_before=False), take another model where there "
            "is no such choice, or train it without Admin: Pre-LN does not need it."
        )
    if not sites:
        raise UnsupportedModelError(
            f"No residual connection was found in {type(model).__name__}. Known layers: "
            f"{', '.join(served_layers())}, and subclasses that keep their forward. The sites of "
            "another Post-LN model can be named, see `admin_init.named_sites`."
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
    # `encoder` reads better than `model.transformer.encoder`, where it says which one is meant.
    paths = {site.stack for site in sites}
    short = Counter(path.rpartition(".")[2] for path in paths)
    for site in sites:
        last = site.stack.rpartition(".")[2]
        if short[last] == 1 and not last.isdigit():
            site.stack = last
