"""Models and batches that are named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

from torch import nn

from admin_init._utils.checkpoints import read_checkpoint, require_omegas
from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.errors import AdminInitError
from admin_init.rescale import install_, profiled_sites
from admin_init.sites import ResidualSite


def import_object(name: str) -> Any:
    """Import the object ``module:attribute``.

    As with ``python -m``, modules are also searched in the working directory.

    Raises:
        AdminInitError: There is no such module or attribute.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise AdminInitError(f"`{name}` must be a module and a name in it, such as `my.net:Net`.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise AdminInitError(f"`{name}` cannot be found: {error}.") from error


def build_model(name: str) -> nn.Module:
    """Build a model by calling the function or class ``module:attribute`` without arguments.

    Args:
        name: Name of the function or class, such as ``my.module:build``.

    Raises:
        AdminInitError: It does not exist, or does not return an ``nn.Module``.
    """
    builder = import_object(name)
    model = builder() if callable(builder) else builder
    if not isinstance(model, nn.Module):
        raise AdminInitError(
            f"`{name}` must return an nn.Module, but returns an object of class "
            f"{type(model).__name__}."
        )
    return model


def resolve_batch(model: nn.Module, name: str | None) -> Any:
    """Return the batch ``module:attribute``, or call the function of that name for it.

    Args:
        model: The model to run.
        name: Name of the batch or function, such as ``my.module:batch``; None for the
            ``example_input_array`` of a LightningModule.

    Raises:
        AdminInitError: There is no batch.
    """
    if name is not None:
        batch = import_object(name)
        return batch() if callable(batch) else batch
    batch = getattr(model, "example_input_array", None)
    if batch is None:
        raise AdminInitError(
            f"{type(model).__name__} needs a batch to run on. Give a batch, or a function that "
            "returns one, with `--batch my.module:batch`; or set the LightningModule's "
            "`example_input_array`."
        )
    return batch


def load_model(
    name: str, path: str, sites: Sites | None = None
) -> tuple[nn.Module, list[ResidualSite], dict[str, Any]]:
    """Load a checkpoint with omegas into a model, without a Trainer.

    Args:
        name: Name of the function or class that builds the model, such as ``my.module:build``. A
            LightningModule is built with the hyper-parameters of the checkpoint.
        path: The checkpoint.
        sites: Residual connections, or patterns of their names; see :func:`admin_init.named_sites`.
            By default, those of the checkpoint's profile, or else those of known layers.

    Returns:
        The model, its residual connections, and the content of the checkpoint.

    Raises:
        AdminInitError: The checkpoint has no omegas, or belongs to another model.
        UnsupportedModelError: The model has no residual connection that Admin can rescale.
    """
    checkpoint = require_omegas(read_checkpoint(path), path)
    builder = import_object(name)
    try:
        if hasattr(builder, "load_from_checkpoint"):
            with warnings.catch_warnings():
                # The model has no omegas yet, about which Lightning warns.
                warnings.simplefilter("ignore")
                model = builder.load_from_checkpoint(
                    path,
                    map_location="cpu",
                    strict=False,
                    weights_only=True,
                    # Otherwise the checkpoint could name any function to import and call.
                    _instantiator=None,
                )
        else:
            model = build_model(name)
        profile = AdminProfile.from_checkpoint(checkpoint) if sites is None else None
        residual = profiled_sites(model, profile) if profile else resolve_sites(model, sites)
        install_(model, sites=residual).load_state_dict(checkpoint["state_dict"])
    except (TypeError, RuntimeError) as error:
        reason = str(error).replace("\n\t", " ").partition("\n")[0]
        raise AdminInitError(f"{path} cannot be loaded into `{name}`: {reason}") from error
    return model, residual, checkpoint
