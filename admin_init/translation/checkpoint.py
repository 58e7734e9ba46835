"""Rebuilding and folding of translation models from checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from admin_init._utils.checkpoints import read_checkpoint, require_omegas
from admin_init.errors import AdminInitError
from admin_init.folding import write_folded
from admin_init.nn import TransformerConfig
from admin_init.translation.declared import build_for, check_positions
from admin_init.translation.model import TranslationModel

if TYPE_CHECKING:
    from admin_init.translation.module import TranslationModule

Model = TypeVar("Model", bound=TranslationModel)


def load_module(checkpoint: dict[str, Any]) -> TranslationModule:
    """Rebuild the module of a checkpoint, in eval mode and with the omegas of the checkpoint.

    Raises:
        AdminInitError: The checkpoint is not that of a :class:`TranslationModule`, or its settings
            do not match its weights.
    """
    # Late: `load_model` must work without importing Lightning.
    from admin_init.translation.module import TranslationModule  # noqa: PLC0415

    return _load(TranslationModule, checkpoint)


def load_model(checkpoint: dict[str, Any]) -> TranslationModel:
    """Rebuild the part of a checkpoint's module that translates, see :func:`load_module`.

    Raises:
        AdminInitError: The checkpoint is not that of a :class:`TranslationModule`, or its settings
            do not match its weights.
    """
    return _load(TranslationModel, checkpoint, unused=("optimization", "label_smoothing"))


def _load(cls: type[Model], checkpoint: dict[str, Any], unused: Sequence[str] = ()) -> Model:
    def build() -> Model:
        model = cls(**{name: settings[name] for name in settings if name not in unused})
        model.on_load_checkpoint(checkpoint)
        return model

    try:
        settings, weights = checkpoint.get("hyper_parameters", {}), checkpoint["state_dict"]
        _check_vocabulary(settings, weights)
        for options in (
            settings.get("transformer"),
            (settings.get("fairseq") or {}).get("overrides"),
        ):
            check_positions(options or {}, weights)
        model = build_for(weights, build, cls.load_state_dict)
    except ImportError:  # if fairseq is missing, the error says how to install it
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).replace("\n", " ")
        raise AdminInitError(
            f"This is not a checkpoint of a translation model: {reason}"
        ) from error
    return model.eval()


def _check_vocabulary(settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
    # fairseq builds a dictionary of this size before any weight.
    size = settings.get("transformer", {}).get("vocabulary_size")
    rows = {len(weight) for weight in weights.values() if weight.ndim}
    if size is not None and size not in rows:
        raise ValueError(f"it declares {size:,} subwords, but no weight has {size:,} rows.")


def fold_checkpoint(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> float:
    """Write the checkpoint of a plain Post-LN model with the same outputs as ``source``.

    Args:
        source: A checkpoint of a :class:`TranslationModule` with omegas.
        destination: The checkpoint to write, see :func:`admin_init.folding.write_folded`.

    Returns:
        The largest difference between logits before and after, relative to the largest logit.

    Raises:
        AdminInitError: ``source`` cannot be read, or has no omegas.
        FoldError: An omega cannot be folded, or the outputs would change.
    """
    checkpoint = require_omegas(read_checkpoint(source), source)
    try:
        module = load_module(checkpoint)
    except AdminInitError as error:
        raise AdminInitError(
            f"{str(error).rstrip('.')}. For a model of your own, name the function that builds it: "
            "`--model`."
        ) from error
    plain = checkpoint | {"state_dict": {}}
    module.on_save_checkpoint(plain)
    return write_folded(module, plain, destination, partial(probe, module, module.config))


@torch.no_grad()
def probe(model: Callable[[Tensor, Tensor], Tensor], config: TransformerConfig) -> Tensor:
    """Compute the logits of fixed random tokens.

    Args:
        model: A translation model, or its Transformer.
        config: Configuration of the Transformer.

    Returns:
        Logits. *Shape:* (4, T, V), with T at most 16.
    """
    shape = 4, min(16, config.max_positions)
    first = config.padding_idx + 1
    tokens = torch.randint(first, config.vocabulary_size or 0, shape, generator=torch.Generator())
    return model(tokens, tokens)
