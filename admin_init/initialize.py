"""Admin in one call, and an optimizer's parameters: for training loops without a Trainer."""

from __future__ import annotations

from typing import Any

from torch import nn

from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.omega import Rule
from admin_init.profiling import Forward, profile
from admin_init.rescale import apply_, train_omegas_


def initialize_(
    model: nn.Module,
    batch: Any,
    *,
    forward: Forward | None = None,
    rule: Rule = "reference",
    trainable: bool = True,
    sites: Sites | None = None,
) -> AdminProfile:
    """Profile ``model`` on one batch and rescale its residual connections.

    Call it before the optimizer is built, so that it holds the omegas too.

    Args:
        model: A model with Post-LN layers, at its initialization.
        batch: A training batch.
        forward: Called as ``forward(model, batch)``, see :func:`admin_init.profile`.
        rule: How omegas follow from variances, see :func:`admin_init.omega.omega_from_variances`.
        trainable: Whether omega is trained. The first one of each stack never is.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Returns:
        The profile that is in force.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale.
        ProfileError: The model cannot be profiled, or the type of its weights cannot hold an omega.
            Nothing has been changed then.

    Example::

        admin_init.initialize_(model, next(iter(loader)))
        optimizer = torch.optim.AdamW(admin_init.parameter_groups(model, 0.01), lr=1e-3)
    """
    found = resolve_sites(model, sites)
    measured = profile(model, [batch], forward=forward, rule=rule, sites=found)
    apply_(model, measured, sites=found)
    train_omegas_(found, trainable)
    return measured


def parameter_groups(
    model: nn.Module, weight_decay: float, *, sites: Sites | None = None
) -> list[dict[str, Any]]:
    """Return the parameters of ``model`` that are trained, omega in a group without weight decay.

    Args:
        model: A model with omegas.
        weight_decay: Weight decay of all the other parameters.
        sites: As for :func:`initialize_`.

    Returns:
        Two groups for an optimizer of ``torch.optim``: the others, and the omegas.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale.
    """
    omegas = [site.omega for site in resolve_sites(model, sites) if site.omega is not None]
    ours = {id(omega) for omega in omegas}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in ours], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in ours], "weight_decay": 0.0},
    ]
