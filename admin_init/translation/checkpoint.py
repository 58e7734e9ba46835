"""Checkpoints of translation models: read safely, rebuilt, folded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from admin_init.errors import AdminInitError, FoldError
from admin_init.nn import TransformerConfig
from admin_init.rescale import fold_
from admin_init.translation.module import TranslationModule

TOLERANCE = 1e-4
"""How far logits may be apart before and after a fold or a conversion, relative to the largest."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a Lightning checkpoint without running any code that it may hold.

    Raises:
        AdminInitError: There is no such file, or it is no checkpoint.
    """
    return lightning_checkpoint(load(path), path)


def lightning_checkpoint(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what was loaded from ``path``, if it is a Lightning checkpoint.

    Raises:
        AdminInitError: It is none.
    """
    if not isinstance(content, dict) or "state_dict" not in content:
        raise AdminInitError(f"{path} is no Lightning checkpoint: it has no `state_dict`.")
    return content


def load(path: str | os.PathLike[str]) -> Any:
    """Load what ``torch.save`` wrote, without running any code that it may hold.

    Raises:
        AdminInitError: There is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise AdminInitError(f"There is no checkpoint at {path}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message spans a page, and advises to run what the file holds.
        raise AdminInitError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged, or "
            "holds more than tensors and plain values."
        ) from error


def load_module(checkpoint: dict[str, Any]) -> TranslationModule:
    """Rebuild the module of a checkpoint, with omegas where it has some, in eval mode.

    Raises:
        AdminInitError: The checkpoint is not one of a :class:`TranslationModule`.
    """
    try:
        module = TranslationModule(**checkpoint.get("hyper_parameters", {}))
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
    except ImportError:  # fairseq is missing, which says how to get it
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).replace("\n", " ")
        raise AdminInitError(f"This is no checkpoint of a translation model: {reason}") from error
    return module.eval()


def fold_checkpoint(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> float:
    """Write a checkpoint of the plain Post-LN model that computes what ``source`` computes.

    The new checkpoint holds weights and hyper-parameters only: the state of an optimizer belongs
    to the weights that it has stepped.

    Args:
        source: A checkpoint of a :class:`TranslationModule` with omegas.
        destination: Where the new one is written, whole or not at all.

    Returns:
        The largest difference between logits before and after, relative to the largest logit.

    Raises:
        AdminInitError: ``source`` cannot be read, or has no omegas.
        FoldError: An omega cannot be folded, or the outputs would change.
    """
    checkpoint = read_checkpoint(source)
    if not any(key.endswith(".omega") for key in checkpoint["state_dict"]):
        raise AdminInitError(f"{source} has no omegas, so there is nothing to fold.")
    module = load_module(checkpoint)
    before = probe(module, module.config)
    fold_(module)
    difference = relative_difference(probe(module, module.config), before)
    if not difference <= TOLERANCE:
        raise FoldError(
            f"Folding {source} would change the logits by {difference:.1e} of the largest, more "
            f"than {TOLERANCE:.0e}. Nothing was written."
        )
    settings = checkpoint["hyper_parameters"]
    folded = {
        key: checkpoint[key]
        for key in checkpoint
        if key in ("epoch", "global_step", "pytorch-lightning_version")
        or key.startswith("datamodule_hyper_")
    } | {
        "state_dict": module.state_dict(),
        "hyper_parameters": settings
        | {"transformer": settings["transformer"] | {"residual": "post"}},
    }
    write_checkpoint(folded, destination)
    return difference


def write_checkpoint(checkpoint: dict[str, Any], destination: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all."""
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        torch.save(checkpoint, Path(folder) / destination.name)
        os.replace(Path(folder) / destination.name, destination)


@torch.no_grad()
def probe(model: Callable[[Tensor, Tensor], Tensor], config: TransformerConfig) -> Tensor:
    """Compute the logits of some random tokens, always the same: (4, T, V).

    Args:
        model: A translation model, or its Transformer.
        config: The Transformer's.
    """
    shape = 4, min(16, config.max_positions)
    first = config.padding_idx + 1
    tokens = torch.randint(first, config.vocabulary_size or 0, shape, generator=torch.Generator())
    return model(tokens, tokens)


def relative_difference(after: Tensor, before: Tensor) -> float:
    """Return the largest difference of two models' logits, relative to the largest logit."""
    return float((after - before).abs().max() / before.abs().max())
