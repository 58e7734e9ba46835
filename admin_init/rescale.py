"""Install, set and fold omegas, in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.errors import FoldError, ProfileError, UnsupportedModelError
from admin_init.sites import ResidualSite


def install_(model: nn.Module, *, trainable: bool = True, sites: Sites | None = None) -> nn.Module:
    """Give every residual connection an omega of 1, which leaves the outputs unchanged.

    Existing omegas are kept. The first omega of each stack is not trained: it scales the embedding,
    and only while it is constant can :func:`fold_` be exact.

    Args:
        model: A model with Post-LN layers.
        trainable: Whether the other omegas are trained.
        sites: Residual sites, or patterns that name them (see :func:`admin_init.named_sites`).
            Default: the sites of all layers of known families.

    Returns:
        ``model``.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale; it is
            left unchanged.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> model = admin_init.install_(model)
        >>> [name for name, _ in model.named_parameters() if name.endswith("omega")][:2]
        ['layers.0.self_attn_skip.omega', 'layers.0.ffn_skip.omega']
    """
    bare = [site for site in resolve_sites(model, sites) if not site.installed]
    with ExitStack() as undo:
        _install_(bare, undo)
        train_omegas_(bare, trainable)
        undo.pop_all()
    return model


def train_omegas_(sites: Sequence[ResidualSite], trainable: bool) -> None:
    """Make the installed omegas trainable or not; the first of each stack never is."""
    for site in sites:
        if site.omega is not None:
            site.omega.requires_grad_(trainable and site.previous is not None)


def apply_(
    model: nn.Module,
    profile: AdminProfile,
    *,
    sites: Sites | None = None,
) -> nn.Module:
    """Set the omegas of a model to those of a profile, and install missing ones.

    This changes the function that the model computes, so call it before training.

    Args:
        model: The profiled model, or one of the same architecture. The site names may differ by a
            prefix that all of them share, such as ``model.``.
        profile: From :func:`admin_init.profile` or ``AdminProfile.load``.
        sites: Residual sites, or patterns that name them (see :func:`admin_init.named_sites`).
            Default: the sites of all layers of known families.

    Returns:
        ``model``.

    Raises:
        ProfileError: The sites of the model and of the profile differ, or the type of the weights
            cannot hold an omega. The model is left unchanged.
        UnsupportedModelError: The model was built inside ``torch.inference_mode``.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> admin_init.profile(model, [torch.randn(4, 10, 16)]).save("profile.json")
        >>> model = admin_init.apply_(model, admin_init.AdminProfile.load("profile.json"))
    """
    found = resolve_sites(model, sites)
    check_can_train(found)
    omegas = _match(profile, [site.name for site in found])
    _check_range(found, omegas)
    install_(model, sites=found)
    for site in found:
        if site.omega is not None:
            nn.init.constant_(site.omega, omegas[site.name])
    return model


def fold_(model: nn.Module, *, sites: Sites | None = None) -> nn.Module:
    """Fold every omega into the weights, which leaves a plain Post-LN model.

    The outputs stay the same, and the state dict has its keys from before :func:`install_` again.
    Each sub-layer must read only the output of the sub-layer before it, as in ``nn.Transformer``.
    Code that reads hidden states between sub-layers, for example to return all of them, gets
    rescaled values.

    Args:
        model: A model with omegas, trained or not. A model without omegas is left unchanged.
        sites: Residual sites, or patterns that name them (see :func:`admin_init.named_sites`).
            Default: the sites of all layers of known families.

    Returns:
        ``model``.

    Raises:
        FoldError: An omega is zero or not finite; the first omega of a stack differs between
            channels; or the weights to fold into are shared, are computed from other weights, are
            unknown because a subclass overrides the method that reads them, would overflow, or
            cannot be changed in place. The model is left unchanged.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> profile = admin_init.initialize_(model, torch.randn(4, 10, 16))
        >>> model = admin_init.fold_(model)
        >>> any("omega" in name for name in model.state_dict())
        False
    """
    folding = [site for site in resolve_sites(model, sites) if site.installed]
    problems = list(_fold_problems(model, folding))
    if problems:
        raise FoldError(
            f"Omega cannot be folded, and nothing was changed: {'; '.join(problems)}. The model "
            "can still be used and saved with its omegas."
        )
    for site in folding:
        site.fold_()
    return model


@contextmanager
def installed(sites: Sequence[ResidualSite]) -> Iterator[None]:
    """Install missing omegas until exit."""
    with ExitStack() as stack:
        _install_([site for site in sites if not site.installed], stack)
        yield


def check_can_train(sites: Sequence[ResidualSite]) -> None:
    """Raise an UnsupportedModelError if weights were made inside ``torch.inference_mode``."""
    for site in sites:
        if site.norm_weight.is_inference() or (
            site.omega is not None and site.omega.is_inference()
        ):
            raise UnsupportedModelError(
                f"The weights around `{site.name}` were made inside `torch.inference_mode`, so "
                "they cannot be trained. Build the model outside of it."
            )


@torch.inference_mode(False)
def _install_(sites: Sequence[ResidualSite], undo: ExitStack) -> None:
    for site in sites:
        undo.callback(site.uninstall_)
        site.install_()


def _check_range(sites: Sequence[ResidualSite], omegas: dict[str, float]) -> None:
    for site in sites:
        dtype = (site.norm_weight if site.omega is None else site.omega).dtype
        limits = torch.finfo(dtype)
        if not limits.smallest_normal <= omegas[site.name] <= limits.max:
            raise ProfileError(
                f"omega of `{site.name}` is {omegas[site.name]:.4g}, but {dtype} holds values from "
                f"{limits.smallest_normal:.4g} to {limits.max:.4g}. Nothing was changed. Keep the "
                "weights in a type with a larger range, or profile this model."
            )


def _fold_problems(model: nn.Module, sites: Sequence[ResidualSite]) -> Iterator[str]:
    uses = _uses(model)
    for site in sites:
        if problem := site.fold_problem():
            yield problem
            continue
        try:
            targets = list(site.fold_targets())
        except FoldError as error:
            yield str(error)
            continue
        for weight in targets:
            if not isinstance(weight, nn.Parameter):
                yield (
                    f"a weight around `{site.name}` is computed from other weights (weight norm, "
                    "pruning or another parametrization): remove the parametrization first"
                )
            elif uses[weight] > 1:
                yield (
                    f"a weight around `{site.name}` is used in {uses[weight]} places of the model, "
                    "and the other places need it unchanged"
                )
        if not all(_holds(weight, factor) for weight, factor in site.fold_factors()):
            yield f"a weight around `{site.name}` would overflow"
        if not torch.is_inference_mode_enabled() and any(w.is_inference() for w in targets):
            yield (
                f"a weight around `{site.name}` was made inside `torch.inference_mode`, so it can "
                "only be changed there"
            )


@torch.no_grad()
def _holds(weight: Tensor, factor: Tensor) -> bool:
    scaled = (weight.double() * factor).to(weight.dtype)
    return bool((scaled.isfinite() | ~weight.isfinite()).all())


def _uses(model: nn.Module) -> Counter[nn.Parameter]:
    """Count the uses of each parameter: more than one if it or its module is shared."""
    modules = list(model.modules())
    places = Counter(child for module in modules for child in module._modules.values())
    uses: Counter[nn.Parameter] = Counter()
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                uses[parameter] += max(1, places[module])
    return uses


def _match(profile: AdminProfile, names: Sequence[str]) -> dict[str, float]:
    """Map the model's site names to omegas, ignoring a prefix that all names of a side share."""
    omegas = {site.name: site.omega for site in profile.sites}
    ours, theirs = _common_prefix(names), _common_prefix(list(omegas))
    if ours.endswith(theirs) or theirs.endswith(ours):
        omegas = {ours + name.removeprefix(theirs): omega for name, omega in omegas.items()}
    missing = [name for name in names if name not in omegas]
    unknown = [name for name in omegas if name not in names]
    if missing or unknown:
        raise ProfileError(
            f"The profile ({len(profile.sites)} sites) does not fit this model ({len(names)} "
            f"sites). Only in the model: {missing[:3] or 'none'}; only in the profile: "
            f"{unknown[:3] or 'none'}. Profile this model, or load the profile of this model."
        )
    return omegas


def _common_prefix(names: Sequence[str]) -> str:
    first, last = min(names).split("."), max(names).split(".")
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return "".join(f"{part}." for part in first[:shared])
