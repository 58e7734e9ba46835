"""Fold with a check of the outputs, and write the folded checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from admin_init._utils.checkpoints import write_checkpoint, write_safetensors
from admin_init._utils.isolation import trial_pass, whole_pass
from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.errors import FoldError
from admin_init.rescale import fold_, install_
from admin_init.sites import ResidualSite, stacks

TOLERANCE = 1e-4
"""Largest difference that a fold may make to an output, relative to the largest absolute value of
the tensor, or to 1 if that is larger. In half precision, which rounds the folded weights, 8 machine
epsilons are allowed."""

_TRAINING_STATE = ("callbacks", "loops", "lr_schedulers", "optimizer_states")


@contextmanager
def folded(
    model: nn.Module,
    run: Callable[[], object],
    *,
    sites: Sites | None = None,
) -> Iterator[float]:
    """Fold the omegas of a model until exit, after a check that its outputs stay the same.

    Args:
        model: A model with omegas. On exit, the omegas are back, as new parameters.
        run: Makes one forward pass through ``model``, which is then in eval mode. The outputs of
            every stack and the returned tensors are compared before and after the fold.
        sites: Residual sites, patterns that name them (see :func:`admin_init.named_sites`), or a
            file of :func:`admin_init.save_sites`. Default: all that have an omega.

    Yields:
        The largest difference between outputs before and after, see :data:`TOLERANCE`.

    Raises:
        FoldError: An omega cannot be folded, or the outputs would change. The model is left
            unchanged.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
        >>> batch = torch.randn(4, 10, 16)
        >>> profile = admin_init.initialize_(model, batch)
        >>> with folded(model, lambda: model(batch)) as difference:
        ...     torch.save(model.state_dict(), "plain.pt")
        >>> difference < TOLERANCE
        True
    """
    found = [site for site in resolve_sites(model, sites) if site.omega is not None]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [site.omega is not None and site.omega.requires_grad for site in found]
    before = _outputs(model, run, found)
    fold_(model, sites=found)
    try:
        after = _outputs(model, run, found)
        difference, tolerance = _difference(before, after), _tolerance(found)
        if not difference <= tolerance:
            raise FoldError(
                f"Folding would change the outputs by {difference:.1e} of the largest, more than "
                f"{tolerance:.0e}. The model can still be used and saved with its omegas."
            )
        yield difference
    finally:
        install_(model, sites=found)
        for site, trainable in zip(found, trained, strict=True):
            if site.omega is not None:
                site.omega.requires_grad_(trainable)
        model.load_state_dict(weights)


def write_folded(
    model: nn.Module,
    checkpoint: dict[str, Any],
    destination: str | os.PathLike[str],
    run: Callable[[], object],
    *,
    sites: Sites | None = None,
) -> float:
    """Write a checkpoint of the plain Post-LN model that is equivalent to ``model``.

    It has the folded weights and the other entries of ``checkpoint``, but no training state: the
    optimizer's state belongs to the unfolded weights.

    Args:
        model: A model with omegas, loaded from ``checkpoint``.
        checkpoint: A checkpoint of Lightning.
        destination: Path of the new checkpoint, which is written atomically. A path that ends in
            ``.safetensors`` gets a safetensors file of the weights alone.
        run: Makes one forward pass through ``model``, see :func:`folded`.
        sites: Residual sites, patterns that name them (see :func:`admin_init.named_sites`), or a
            file of :func:`admin_init.save_sites`. Default: all that have an omega.

    Returns:
        The largest difference between outputs before and after, see :data:`TOLERANCE`.

    Raises:
        FoldError: An omega cannot be folded, or the outputs would change. Nothing is written.
    """
    with folded(model, run, sites=sites) as difference:
        if Path(destination).suffix == ".safetensors":
            write_safetensors(model, destination)
        else:
            kept = {key: value for key, value in checkpoint.items() if key not in _TRAINING_STATE}
            write_checkpoint(kept | {"state_dict": model.state_dict()}, destination)
    return difference


def _outputs(
    model: nn.Module, run: Callable[[], object], sites: Sequence[ResidualSite]
) -> list[Tensor]:
    """Run in eval mode, and return the output of each stack, then that of ``run``."""
    seen: list[Tensor] = []

    def see(value: Tensor) -> None:
        if value.is_floating_point():
            seen.append(value.detach().to(torch.float64, copy=True))

    with ExitStack() as stack:
        stack.enter_context(trial_pass(model))
        stack.enter_context(whole_pass(model))  # the fused kernel outputs zeros for padding
        for chain in stacks(sites).values():
            place = chain[-1].place
            last = chain[-1].norm
            if last is None and place is not None:
                last = model.get_submodule(place.branch)
            if last is not None:
                handle = last.register_forward_hook(
                    lambda *args: apply_to_collection(args[-1], Tensor, see)
                )
                stack.callback(handle.remove)
        model.eval()
        result = run()
    if not seen:
        raise FoldError(
            "The forward pass ran no stack of the model, so it cannot show that folding keeps the "
            "outputs. Pass a `run` that runs the whole model."
        )
    apply_to_collection(result, Tensor, see)
    return seen


def _difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    differences = [
        (new - old).abs().max() / old.abs().max().clamp(min=1)
        for old, new in zip(before, after, strict=True)
    ]
    # Python's `max` may skip NaN.
    return float(torch.stack(differences).max())


def _tolerance(sites: Sequence[ResidualSite]) -> float:
    return max(TOLERANCE, *(8 * torch.finfo(site.template.dtype).eps for site in sites))
