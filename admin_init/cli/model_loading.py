"""Build what is named on a command line."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

from torch import nn

from admin_init._utils.checkpoints import read_checkpoint, with_omegas
from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.errors import AdminInitError
from admin_init.rescale import install_
from admin_init.sites import ResidualSite


def found(name: str) -> Any:
    """Return what ``module:attribute`` names.

    Modules are looked for in the working directory, too, as ``python -m`` does.

    Raises:
        AdminInitError: There is no such thing.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise AdminInitError(f"`{name}` must be a module and a name in it, as `my.net:Net`.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise AdminInitError(f"`{name}` cannot be found: {error}.") from error


def built(name: str) -> nn.Module:
    """Call the function or the class ``module:attribute``, without arguments, for a model.

    Args:
        name: Such as ``my.module:build``.

    Raises:
        AdminInitError: There is no such thing, or what it returns is no ``nn.Module``.
    """
    builder = found(name)
    model = builder() if callable(builder) else builder
    if not isinstance(model, nn.Module):
        raise AdminInitError(
            f"`{name}` must give an nn.Module, but gives an object of class {type(model).__name__}."
        )
    return model


def batch_for(model: nn.Module, name: str | None) -> Any:
    """Return the batch ``module:attribute``, or what a function of that name returns.

    Args:
        model: Has one of its own, perhaps: a LightningModule's ``example_input_array``.
        name: Such as ``my.module:batch``; None for the model's own.

    Raises:
        AdminInitError: There is none.
    """
    if name is not None:
        batch = found(name)
        return batch() if callable(batch) else batch
    batch = getattr(model, "example_input_array", None)
    if batch is None:
        raise AdminInitError(
            f"{type(model).__name__} must be run on a batch. Name one, or a function that returns "
            "it, as `--batch my.module:batch`; or set the LightningModule's `example_input_array`."
        )
    return batch


def restored(
    name: str, path: str, sites: Sites | None = None
) -> tuple[nn.Module, list[ResidualSite], dict[str, Any]]:
    """Load a checkpoint with omegas into a model, without a Trainer.

    Args:
        name: What builds the model, as ``my.module:build``. The class of a LightningModule is given
            the hyper-parameters that the checkpoint has.
        path: The checkpoint.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.

    Returns:
        The model, its residual connections, and what the checkpoint holds.

    Raises:
        AdminInitError: The checkpoint has no omegas, or is not one of this model.
        UnsupportedModelError: The model has no residual connection that Admin can rescale.
    """
    checkpoint = with_omegas(read_checkpoint(path), path)
    builder = found(name)
    try:
        if hasattr(builder, "load_from_checkpoint"):
            with warnings.catch_warnings():
                # Of the omegas, for which there is no place yet.
                warnings.simplefilter("ignore")
                model = builder.load_from_checkpoint(
                    path,
                    map_location="cpu",
                    strict=False,
                    weights_only=True,
                    # Not what the checkpoint names, which imports and calls what else it names.
                    _instantiator=None,
                )
        else:
            model = built(name)
        residual = resolve_sites(model, sites)
        install_(model, sites=residual).load_state_dict(checkpoint["state_dict"])
    except (TypeError, RuntimeError) as error:
        reason = str(error).replace("\n\t", " ").partition("\n")[0]
        raise AdminInitError(f"{path} cannot be loaded into `{name}`: {reason}") from error
    return model, residual, checkpoint
