"""Every base model of the installed transformers, built small."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from _helpers.inputs_by_name import CannotRunError, batch_of
from _helpers.small_configs import small

MODEL_TYPES: list[str] = sorted(CONFIG_MAPPING_NAMES)
_PARAMETERS = 40_000_000


class NotBuiltError(Exception):
    """A model cannot be built small, or run, from its config alone."""


def model_class(model_type: str) -> type[PreTrainedModel]:
    """Return the base model of a model type: the one of AutoModel, or that of the same config."""
    names = MODEL_MAPPING_NAMES.get(model_type)
    config = CONFIG_MAPPING[model_type]
    try:
        module = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    except ImportError as error:
        raise NotBuiltError(f"no modeling file: {error}") from error
    if names is not None:
        name = names if isinstance(names, str) else names[0]
        found: type[PreTrainedModel] = getattr(module, name, None) or getattr(transformers, name)
        return found
    fitting = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, PreTrainedModel)
        and kind.config_class is config
        and kind.__module__ == module.__name__
        and not kind.__name__.endswith("PreTrainedModel")
    ]
    if not fitting:
        raise NotBuiltError("no model class has this config")
    stem = config.__name__.removesuffix("Config")
    return min(
        fitting, key=lambda kind: (kind.__name__ != f"{stem}Model", "Model" not in kind.__name__)
    )


def build(model_type: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model of random float64 weights, and a batch that it can run.

    Raises:
        NotBuiltError: With the reason.
    """
    kind = model_class(model_type)
    error: Exception | None = None
    for narrow in (True, False):
        try:
            default = CONFIG_MAPPING[model_type]
            config = default(**small(default(), narrow=narrow))
            config._attn_implementation = "eager"
            with torch.device("meta"):
                size = sum(p.numel() for p in kind(config).parameters())
            if size > _PARAMETERS:
                raise NotBuiltError(f"{size:,} parameters")
            torch.manual_seed(0)
            model = randomize_(kind(config).double()).train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            return model, batch_of(model)
        except Exception as problem:
            error = error or problem
    if isinstance(error, NotBuiltError | CannotRunError):
        raise NotBuiltError(str(error)) from error
    raise NotBuiltError(f"{type(error).__name__}: {error}") from error


@torch.no_grad()
def randomize_(model: nn.Module) -> nn.Module:
    """Draw all weights, so that none is zero and no branch is small."""
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise / max(1, parameter[0].numel()) ** 0.5)
        else:
            parameter.add_(0.1 * noise)
    return model
