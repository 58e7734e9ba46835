"""Install, set and fold omegas, in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from admin_init.adapters.computation.observation import check_can_train
from admin_init.adapters.discovery import Sites, known_sites, resolve_sites
from admin_init.adapters.pretrained import fold_when_saved_, save_as_is_
from admin_init.adapters.records import sites_from_records, store_records
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.errors import FoldError, ProfileError, UnsupportedModelError
from admin_init.sites import ResidualSite


def install_(model: nn.Module, *, trainable: bool = True, sites: Sites | None = None) -> nn.Module:
    """Give every residual connection an omega of 1, which leaves the outputs unchanged.

    Existing omegas are kept. The first omega of each stack is not trained: it scales the embedding,
    and only while it is constant can :func:`fold_` be exact. Nor is one beside a frozen norm.

    ``save_pretrained`` of a model of Hugging Face saves folded weights from now on, because
    ``from_pretrained`` builds a plain model; the model itself keeps its omegas.

    Args:
        model: A model with Post-LN layers.
        trainable: Whether the other omegas are trained.
        sites: Residual sites, patterns that name them (see :func:`admin_init.named_sites`), or a
            file of :func:`admin_init.save_sites`. Default: those of layers of known families.

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
    found = resolve_sites(model, sites)
    bare = [site for site in found if not site.installed]
    with ExitStack() as undo:
        _install_(bare, undo)
        store_records(found)
        train_omegas_(bare, trainable)
        undo.pop_all()
    fold_when_saved_(model, fold_)
    return model


def train_omegas_(sites: Sequence[ResidualSite], trainable: bool) -> None:
    """Make the installed omegas trainable or not.

    The first of each stack never is, nor one beside a frozen norm.
    """
    for site in sites:
        if site.omega is not None:
            frozen = isinstance(site.template, nn.Parameter) and not site.template.requires_grad
            site.omega.requires_grad_(trainable and site.previous is not None and not frozen)


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
        sites: As for :func:`install_`. Default: those of the profile.

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
    found = profiled_sites(model, profile) if sites is None else resolve_sites(model, sites)
    check_can_train(found)
    profiles = _match(profile, [site.name for site in found])
    omegas = {name: site.omega for name, site in profiles.items()}
    _check_range(found, omegas)
    _link(found, profiles)
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
        sites: As for :func:`install_`. Default: all that have an omega.

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
    check_fold(model, folding)
    for site in folding:
        site.fold_()
    save_as_is_(model)
    fold_when_saved_(model, fold_)  # what still has omegas
    return model


def profiled_sites(model: nn.Module, profile: AdminProfile) -> list[ResidualSite]:
    """Return the sites of a model that a profile describes.

    Raises:
        ProfileError: The model has no such modules.
        UnsupportedModelError: The profile is of layers of known families, but the model has none.
    """
    records = [site.site for site in profile.sites if site.site is not None]
    if all(record.place is None for record in records):
        found = resolve_sites(model)
        return [site for site in found if not _left_out(site.name, profile.left_out)]
    try:
        return sites_from_records(model, records, known_sites(model))
    except UnsupportedModelError as error:
        raise ProfileError(f"The profile does not fit this model: {error}") from error


def check_fold(model: nn.Module, sites: Sequence[ResidualSite]) -> None:
    """Raise a FoldError that names every reason why the omegas of ``sites`` cannot be folded."""
    problems = list(_fold_problems(model, sites))
    if problems:
        raise FoldError(
            f"Omega cannot be folded, and nothing was changed: {'; '.join(problems)}. The model "
            "can still be used and saved with its omegas."
        )


@contextmanager
def installed(sites: Sequence[ResidualSite]) -> Iterator[None]:
    """Install missing omegas until exit."""
    with ExitStack() as stack:
        _install_([site for site in sites if not site.installed], stack)
        yield


@torch.inference_mode(False)
def _install_(sites: Sequence[ResidualSite], undo: ExitStack) -> None:
    for site in sites:
        undo.callback(site.uninstall_)
        site.install_()


def _check_range(sites: Sequence[ResidualSite], omegas: dict[str, float]) -> None:
    for site in sites:
        dtype = (site.template if site.omega is None else site.omega).dtype
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


def _left_out(name: str, left_out: Sequence[str]) -> bool:
    """Return whether a name is among ``left_out``, with another prefix or without."""
    return any(f".{one}".endswith(f".{name}") or f".{name}".endswith(f".{one}") for one in left_out)


def _match(profile: AdminProfile, names: Sequence[str]) -> dict[str, SiteProfile]:
    """Map the model's site names to profiles, ignoring a prefix that all names of a side share."""
    profiles = {site.name: site for site in profile.sites}
    ours, theirs = _common_prefix(names), _common_prefix(list(profiles))
    if ours.endswith(theirs) or theirs.endswith(ours):
        profiles = {ours + name.removeprefix(theirs): site for name, site in profiles.items()}
    missing = [name for name in names if name not in profiles]
    unknown = [name for name in profiles if name not in names]
    if missing or unknown:
        raise ProfileError(
            f"The profile ({len(profile.sites)} sites) does not fit this model ({len(names)} "
            f"sites). Only in the model: {missing[:3] or 'none'}; only in the profile: "
            f"{unknown[:3] or 'none'}. Profile this model, or load the profile of this model."
        )
    return profiles


def _link(sites: Sequence[ResidualSite], profiles: dict[str, SiteProfile]) -> None:
    """Link the sites along the computation that the profile shows."""
    by_name = {profiles[site.name].name: site for site in sites}
    for site in sites:
        record = profiles[site.name].site
        if record is not None:
            site.previous = by_name.get(record.previous or "")
            site.computed = True
            site.computed_fold_problem = record.fold_problem


def _common_prefix(names: Sequence[str]) -> str:
    first, last = min(names).split("."), max(names).split(".")
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return "".join(f"{part}." for part in first[:shared])
