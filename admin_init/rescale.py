"""Put omegas into a model, set them, and fold them away. In place, as torch's underscore says."""

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
    """Give every residual connection an omega of 1, which changes no output.

    Sites that have one keep it. The first omega of each stack is not trained: it scales the
    embedding, and :func:`fold_` is exact only where it stays as it is.

    Args:
        model: A model with Post-LN layers.
        trainable: Whether the other omegas are trained.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Returns:
        ``model``.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale. Nothing
            has been changed then.
    """
    bare = [site for site in resolve_sites(model, sites) if not site.installed]
    with ExitStack() as undo:
        _install_(bare, undo)
        train_omegas_(bare, trainable)
        undo.pop_all()
    return model


def train_omegas_(sites: Sequence[ResidualSite], trainable: bool) -> None:
    """Say whether the omegas of installed sites are trained; the first of a stack never is."""
    for site in sites:
        if site.omega is not None:
            site.omega.requires_grad_(trainable and site.previous is not None)


def apply_(
    model: nn.Module,
    profile: AdminProfile,
    *,
    sites: Sites | None = None,
) -> nn.Module:
    """Set the omegas of ``model`` to those of ``profile``; install them where there are none.

    This changes the function that the model computes, so it belongs before training.

    Args:
        model: The model that was profiled, or one of the same architecture. A prefix that all its
            sites share, such as ``model.``, may be there or not.
        profile: From :func:`admin_init.profile` or ``AdminProfile.load``.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Returns:
        ``model``.

    Raises:
        ProfileError: The sites of the model are not those of the profile, or the type of its
            weights cannot hold an omega. Nothing has been changed then.
        UnsupportedModelError: The model was built inside ``torch.inference_mode``.
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
    """Fold every omega into the weights: what is left is a plain Post-LN model.

    Its outputs are those of before, its state dict has the keys it had before :func:`install_`.
    That needs sub-layers that read nothing but the sub-layer before them, as in ``nn.Transformer``:
    what else reads the states between them (say, to return them all) finds them rescaled.

    Args:
        model: A model with omegas, trained or not. One without is left alone.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Returns:
        ``model``.

    Raises:
        FoldError: An omega is zero or not finite, the first one of a stack differs between
            channels, or the weights to fold into are shared, computed from others, unknown because
            a subclass overrides what reads them, would overflow, or cannot be changed in place.
            Nothing has been changed then.
    """
    folding = [site for site in resolve_sites(model, sites) if site.installed]
    problems = list(_fold_problems(model, folding))
    if problems:
        raise FoldError(
            f"Omega cannot be folded, and nothing was changed: {'; '.join(problems)}. The model "
            "can be used and saved with its omegas as it is."
        )
    for site in folding:
        site.fold_()
    return model


@contextmanager
def installed(sites: Sequence[ResidualSite]) -> Iterator[None]:
    """Install the sites that have no omega, and take it out again on exit."""
    with ExitStack() as stack:
        _install_([site for site in sites if not site.installed], stack)
        yield


def check_can_train(sites: Sequence[ResidualSite]) -> None:
    """Raise an UnsupportedModelError for weights that torch keeps from ever being trained."""
    for site in sites:
        if site.norm_weight.is_inference() or (
            site.omega is not None and site.omega.is_inference()
        ):
            raise UnsupportedModelError(
                f"The weights around `{site.name}` were made inside `torch.inference_mode`, so no "
                "gradient can ever reach them. Build the model outside of it."
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
                f"{limits.smallest_normal:.4g} to {limits.max:.4g}, so nothing was changed. Keep "
                "the weights in a type that holds it, or profile this model."
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
                    f"a weight around `{site.name}` is computed from others (weight norm, pruning, "
                    "a parametrization): remove that first"
                )
            elif uses[weight] > 1:
                yield (
                    f"a weight around `{site.name}` is used in {uses[weight]} places of the model, "
                    "and the others need it as it is"
                )
        if not all(_holds(weight, factor) for weight, factor in site.fold_factors()):
            yield f"a weight around `{site.name}` would overflow"
        if not torch.is_inference_mode_enabled() and any(w.is_inference() for w in targets):
            yield (
                f"a weight around `{site.name}` was made inside `torch.inference_mode`, and can be "
                "changed there only"
            )


@torch.no_grad()
def _holds(weight: Tensor, factor: Tensor) -> bool:
    scaled = (weight.double() * factor).to(weight.dtype)
    return bool((scaled.isfinite() | ~weight.isfinite()).all())


def _uses(model: nn.Module) -> Counter[nn.Parameter]:
    """Count the places that hold each parameter: several where it, or its module, is shared."""
    modules = list(model.modules())
    places = Counter(child for module in modules for child in module._modules.values())
    uses: Counter[nn.Parameter] = Counter()
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                uses[parameter] += max(1, places[module])
    return uses


def _match(profile: AdminProfile, names: Sequence[str]) -> dict[str, float]:
    """Map the model's site names to omegas, whatever prefix the two sides have in common."""
    omegas = {site.name: site.omega for site in profile.sites}
    ours, theirs = _common_prefix(names), _common_prefix(list(omegas))
    if ours.endswith(theirs) or theirs.endswith(ours):
        omegas = {ours + name.removeprefix(theirs): omega for name, omega in omegas.items()}
    missing = [name for name in names if name not in omegas]
    unknown = [name for name in omegas if name not in names]
    if missing or unknown:
        raise ProfileError(
            f"The profile ({len(profile.sites)} sites) is not one of this model ({len(names)} "
            f"sites). In the model only: {missing[:3] or 'none'}; in the profile only: "
            f"{unknown[:3] or 'none'}. Profile this model, or load the profile that was made of it."
        )
    return omegas


def _common_prefix(names: Sequence[str]) -> str:
    first, last = min(names).split("."), max(names).split(".")
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return "".join(f"{part}." for part in first[:shared])
