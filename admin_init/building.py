"""Build what is named on a command line."""

from __future__ import annotations

import importlib
import os
import sys

from torch import nn

from admin_init.errors import AdminInitError


def built(name: str) -> nn.Module:
    """Call the function or the class ``module:attribute``, without arguments, for a model.

    Modules are looked for in the working directory, too, as ``python -m`` does.

    Args:
        name: Such as ``my.module:build``.

    Raises:
        AdminInitError: There is no such thing, or what it returns is no ``nn.Module``.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise AdminInitError(
            f"`{name}` must be a module and what builds the model in it, as `my.net:Net`."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        builder = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise AdminInitError(f"`{name}` cannot be found: {error}.") from error
    model = builder() if callable(builder) else builder
    if not isinstance(model, nn.Module):
        raise AdminInitError(
            f"`{name}` must give an nn.Module, but gives an object of class {type(model).__name__}."
        )
    return model
