"""One base class for both distributions of Lightning."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback
else:
    # A Trainer takes only callbacks of its own distribution, `pytorch_lightning` or
    # `lightning.pytorch`; a subclass of both is taken by either.
    Callback = type(
        "Callback",
        tuple(
            importlib.import_module(name).Callback
            for name in ("pytorch_lightning", "lightning.pytorch")
            if find_spec(name.partition(".")[0])
        ),
        {"__doc__": "Taken by the Trainers of ``pytorch_lightning`` and of ``lightning.pytorch``."},
    )

__all__ = ["Callback"]
