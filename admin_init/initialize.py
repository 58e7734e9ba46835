"""Admin for training loops without a Trainer: initialize a model, and group its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from admin_init.adapters.computation.padding import IgnorePadding
from admin_init.adapters.discovery import Forward, Sites, resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.omega import OmegaRule, Rule
from admin_init.profiling.profile import profile_sites
from admin_init.rescale import apply_, train_omegas_


def initialize_(
    model: nn.Module,
    batch: Any,
    *,
    forward: Forward | None = None,
    rule: Rule = "reference",
    share: float | None = None,
    trainable: bool = True,
    sites: Sites | None = None,
    exclude: Sequence[str] = (),
    ignore_padding: IgnorePadding | None = None,
) -> AdminProfile:
    """Profile a model on one batch and rescale its residual connections.

    Call this before you build the optimizer, so that the optimizer gets the omegas too.

    Args:
        model: A model with Post-LN layers, freshly initialized.
        batch: A training batch.
        forward: Called as ``forward(model, batch)``, see :func:`admin_init.profile`.
        rule: Formula for omega, see :func:`admin_init.omega.omega_from_variances`.
        share: For the rule ``share``: the share of a stack's input in the variance of its output,
            between 0 and 1; 0.5 by default.
        trainable: Whether omega is trained. The first omega of each stack never is.
        sites: Residual sites, patterns that name them (see :func:`admin_init.named_sites`), or a
            file of :func:`admin_init.save_sites`. Default: those that the model computes.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.
        ignore_padding: Positions to leave out of the variances, see :class:`admin_init.AdminInit`.

    Returns:
        The profile that was applied.

    Raises:
        UnsupportedModelError: The model has no residual connection that Admin can rescale.
        ProfileError: The model cannot be profiled, or the type of its weights cannot hold an omega.
            The model is left unchanged.
        ValueError: ``rule`` is unknown, or ``share`` does not fit it.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> profile = admin_init.initialize_(model, torch.randn(4, 10, 16))
        >>> [site.name for site in profile.sites][:2]
        ['layers.0.self_attn', 'layers.0.ffn']
        >>> groups = admin_init.parameter_groups(model, weight_decay=0.01)
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    checked = OmegaRule(rule, share)
    measured, found = profile_sites(
        model,
        [batch],
        forward=forward,
        rule=checked,
        sites=sites,
        exclude=exclude,
        ignore_padding=ignore_padding,
    )
    apply_(model, measured, sites=found)
    train_omegas_(found, trainable)
    return measured


def parameter_groups(
    model: nn.Module, weight_decay: float, *, sites: Sites | None = None
) -> list[dict[str, Any]]:
    """Split the trainable parameters into two optimizer groups, with omega free of weight decay.

    Args:
        model: A model with omegas.
        weight_decay: Weight decay of all other parameters.
        sites: As for :func:`initialize_`.

    Returns:
        Two parameter groups for an optimizer of ``torch.optim``: the other parameters, and the
        omegas.

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
