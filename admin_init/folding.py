"""A fold that checks itself, and the checkpoint that comes of it."""

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
from admin_init._utils.isolation import trial_pass
from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.errors import FoldError
from admin_init.rescale import fold_, install_
from admin_init.sites import ResidualSite, stacks

TOLERANCE = 1e-4
"""How far outputs may be apart before and after a fold, relative to the largest of a tensor, or to
1 where that is larger. Half precision, which rounds the folded weights, may be apart by 8 of its
own units."""

_OF_TRAINING = ("callbacks", "loops", "lr_schedulers", "optimizer_states")


@contextmanager
def folded(
    model: nn.Module,
    run: Callable[[], object],
    *,
    sites: Sites | None = None,
) -> Iterator[float]:
    """Fold the omegas of ``model`` until exit, if that changes no output.

    Args:
        model: A model with omegas. On exit it has them again, in new parameters.
        run: Passes a probe once through ``model``, which is in eval mode then. Compared are the
            outputs of every stack, and the tensors that it returns.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Yields:
        The largest difference between outputs before and after, see :data:`TOLERANCE`.

    Raises:
        FoldError: An omega cannot be folded, or the outputs would change. Nothing has been changed
            then.

    Example::

        with folded(model, lambda: model(*batch)) as difference:
            torch.save(model.state_dict(), "plain.pt")
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
                f"{tolerance:.0e}. The model can be used and saved with its omegas as it is."
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
    """Write the checkpoint of the plain Post-LN model that computes what ``model`` computes.

    It holds the weights and what else ``checkpoint`` has beside them, without the state of a
    training: an optimizer's belongs to the weights that it has stepped.

    Args:
        model: A model with omegas, loaded from ``checkpoint``.
        checkpoint: Of Lightning.
        destination: Where the new one is written, whole or not at all; as safetensors, with the
            weights alone, if it ends in ``.safetensors``.
        run: Passes a probe through ``model``, see :func:`folded`.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Returns:
        The largest difference between outputs before and after, see :data:`TOLERANCE`.

    Raises:
        FoldError: An omega cannot be folded, or the outputs would change. Nothing is written then.
    """
    with folded(model, run, sites=sites) as difference:
        if Path(destination).suffix == ".safetensors":
            write_safetensors(model, destination)
        else:
            kept = {key: value for key, value in checkpoint.items() if key not in _OF_TRAINING}
            write_checkpoint(kept | {"state_dict": model.state_dict()}, destination)
    return difference


def _outputs(
    model: nn.Module, run: Callable[[], object], sites: Sequence[ResidualSite]
) -> list[Tensor]:
    """Run in eval mode, and return what came out of each stack, then of ``run``."""
    seen: list[Tensor] = []

    def see(value: Tensor) -> None:
        if value.is_floating_point():
            seen.append(value.detach().to(torch.float64, copy=True))

    with ExitStack() as stack:
        stack.enter_context(trial_pass(model))
        # torch.nn's fused layers, which a plain model takes, put zeros where the input is padded.
        stack.callback(
            torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()
        )
        torch.backends.mha.set_fastpath_enabled(False)
        for chain in stacks(sites).values():
            last = chain[-1].norm
            handle = last.register_forward_hook(lambda *args: see(args[-1]))
            stack.callback(handle.remove)
        model.eval()
        result = run()
    if not seen:
        raise FoldError(
            "The probe passed none of the model's stacks, so it cannot show that a fold changes "
            "nothing. Give one that runs the whole model."
        )
    apply_to_collection(result, Tensor, see)
    return seen


def _difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    differences = [
        (new - old).abs().max() / old.abs().max().clamp(min=1)
        for old, new in zip(before, after, strict=True)
    ]
    # Not Python's `max`, which may pass over NaN.
    return float(torch.stack(differences).max())


def _tolerance(sites: Sequence[ResidualSite]) -> float:
    return max(TOLERANCE, *(8 * torch.finfo(site.norm_weight.dtype).eps for site in sites))
