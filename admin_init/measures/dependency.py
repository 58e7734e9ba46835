"""Layer dependency: the share of each residual branch in each sub-layer's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from admin_init._utils.isolation import in_trial_pass
from admin_init.admin_profile import AdminProfile
from admin_init.measures.names import stack_names, sublayer_name
from admin_init.nn.residual import SkipConnection
from admin_init.omega import variance
from admin_init.scaled_skip import ScaledSkip


class Term(NamedTuple):
    """Variances of the two terms of one residual sum."""

    name: str
    """Name of the sub-layer, such as ``encoder.layers.0.self_attn``."""
    shortcut_variance: float
    """Variance of the shortcut as it enters the sum: after omega or alpha, if there is one."""
    branch_variance: float
    """Variance of the branch."""


def branch_terms(model: nn.Module, run: Callable[[], object]) -> dict[str, list[Term]]:
    """Measure both terms of every residual sum in one forward pass.

    Variances are population variances over all elements, padding included, in float32.

    Args:
        model: A model of :mod:`admin_init.nn`, or any other model with omegas
            (:func:`admin_init.install_`). Dropout is on in train mode only.
        run: Makes one forward pass through the model; its return value is ignored.

    Returns:
        The terms by stack (``encoder``, ``decoder``), in the order of execution.

    Raises:
        ValueError: No residual connection of a known type ran.

    Examples:
        >>> from admin_init.nn import LanguageModel, TransformerConfig
        >>> config = TransformerConfig(vocabulary_size=50, encoder_layers=0, decoder_layers=2)
        >>> model = LanguageModel(config)
        >>> tokens = torch.randint(4, 50, (2, 8))
        >>> terms = branch_terms(model, lambda: model(tokens))
        >>> [term.name for term in terms["decoder"]][:2]
        ['decoder.layers.0.self_attn', 'decoder.layers.0.ffn']
        >>> layer_dependency(terms["decoder"]).shape
        (4, 5)
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with ExitStack() as stack, torch.no_grad():
        for handle in observe_terms(model, lambda name, *terms: seen.update({name: terms})):
            stack.callback(handle.remove)
        run()
    if not seen:
        raise ValueError(
            f"No residual connection of {type(model).__name__} can be observed. Use a model of "
            "`admin_init.nn`, or call `admin_init.install_(model)` first."
        )
    grouped: dict[str, list[Term]] = {}
    stacks = stack_names(seen)
    for name, (shortcut, branch) in seen.items():
        grouped.setdefault(stacks[name], []).append(Term(name, float(shortcut), float(branch)))
    return grouped


def layer_dependency(terms: Sequence[Term]) -> NDArray[np.float64]:
    r"""Compute the share of each branch in each sub-layer's output (arXiv 2004.08249, figure 1).

    If the terms are independent, output i is :math:`\sum_{j \le i} \beta_{ij} \hat f_j` times a
    scale, where :math:`\hat f_j` is branch j divided by its standard deviation, :math:`\hat f_0` is
    the embedding, and :math:`\sum_j \beta_{ij}^2 = 1`. A norm after the sum only changes the scale,
    so Post-LN and Pre-LN, which does not normalize between sub-layers, have the same recursion. The
    shares are approximate if the terms are correlated, and they leave out B2T's second path from
    the layer's input and ResiDual's second stream.

    Args:
        terms: The terms of one stack in the order of execution, see :func:`branch_terms`.

    Returns:
        beta, of shape (sub-layers, sub-layers + 1); column 0 is the embedding.

    Raises:
        ValueError: Both terms of a sub-layer are constant.
    """
    return dependency_from_variances(
        [term.shortcut_variance for term in terms], [term.branch_variance for term in terms]
    )


def branch_share(term: Term) -> float:
    """Compute the standard deviation of a branch over that of the residual sum.

    Both terms of the sum are taken as independent.

    Args:
        term: The terms of one residual connection, see :func:`branch_terms`.

    Returns:
        A share from 0 (the sub-layer passes its input on unchanged) to 1; NaN if both terms are
        constant.

    Examples:
        >>> branch_share(Term("layers.0.ffn", shortcut_variance=3.0, branch_variance=1.0))
        0.5
    """
    total = term.shortcut_variance + term.branch_variance
    return math.sqrt(term.branch_variance / total) if total else math.nan


def observe_terms(
    model: nn.Module, record: Callable[[str, Tensor, Tensor], object]
) -> list[RemovableHandle]:
    """Call ``record`` in every pass through a residual sum, until the handles are removed.

    Compiled graphs are not observed.

    Args:
        model: See :func:`branch_terms`.
        record: Called with the name of the sub-layer and the variances of the shortcut and of the
            branch, which are float32 scalars.

    Returns:
        The handles of the hooks.
    """

    def hook_of(name: str) -> Any:
        @torch.no_grad()
        def hook(module: nn.Module, args: tuple[Tensor, Tensor], kwargs: dict[str, Any]) -> None:
            # A graph compiled with the hook would keep it after its removal.
            if torch.compiler.is_compiling() or in_trial_pass():
                return
            shortcut, branch = args
            if isinstance(module, ScaledSkip):
                omega = kwargs.get("omega")
                shortcut = shortcut * (module.omega if omega is None else omega)
            record(name, variance(shortcut), variance(branch))

        return hook

    return [
        module.register_forward_pre_hook(hook_of(sublayer_name(name)), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, SkipConnection | ScaledSkip)
    ]


def profile_dependency(profile: AdminProfile, stack: str) -> NDArray[np.float64]:
    r"""Compute the layer dependency of one stack from a profile.

    Sub-layer i normalizes :math:`\omega_i x_{i-1} + f_i`. If the branches are independent, its
    output is :math:`\sum_{j \le i} \beta_{ij} \hat f_j`, where :math:`\hat f_j` is branch j divided
    by its standard deviation, :math:`\hat f_0` is the embedding, and
    :math:`\sum_j \beta_{ij}^2 = 1`.

    Args:
        profile: Variances and omegas.
        stack: Name of one of the profile's stacks.

    Returns:
        beta, of shape (sub-layers, sub-layers + 1); column 0 is the embedding.

    Raises:
        ValueError: The profile has no such stack.
    """
    sites = [site for site in profile.sites if site.stack == stack]
    if not sites:
        known = sorted({site.stack for site in profile.sites})
        raise ValueError(f"`stack` must be one of {known}, but is {stack!r}.")
    return dependency_from_variances(
        [site.omega**2 * site.shortcut_variance for site in sites],
        [site.variance for site in sites],
    )


def dependency_from_variances(
    shortcut: Sequence[float], branch: Sequence[float]
) -> NDArray[np.float64]:
    """Compute the shares of one stack from the variances of both terms of its residual sums.

    Args:
        shortcut: Variances of the shortcuts as they enter the sums, in the order of execution.
        branch: Variances of the branches, in the same order.

    Returns:
        beta, of shape (sub-layers, sub-layers + 1); column 0 is the embedding.

    Raises:
        ValueError: Both terms of a sub-layer are constant.
    """
    beta = np.zeros((len(branch), len(branch) + 1))
    shares = np.zeros(len(branch) + 1)
    shares[0] = 1.0
    for i, (x, f) in enumerate(zip(shortcut, branch, strict=True)):
        if x + f == 0:
            raise ValueError(
                f"The shortcut and the branch of sub-layer {i + 1} are both constant, so the "
                "shares in its output are undefined. Measure on a batch with different tokens."
            )
        shares *= math.sqrt(x / (x + f))
        shares[i + 1] = math.sqrt(f / (x + f))
        beta[i] = shares
    return beta
