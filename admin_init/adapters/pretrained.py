"""``save_pretrained`` of models with omegas, whose files are read by plain models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

Fold = Callable[[nn.Module], object]


def fold_when_saved_(model: nn.Module, fold: Fold) -> None:
    """Let ``save_pretrained`` save the folded weights of the models that hold omegas.

    Args:
        model: A model of Hugging Face, or one that contains some.
        fold: Folds the omegas of a model in place, or raises an error.
    """
    for module in model.modules():
        if hasattr(type(module), "save_pretrained") and _has_omega(module):
            module.save_pretrained = _SaveFolded(module, fold)  # type: ignore[assignment]


def save_as_is_(model: nn.Module) -> None:
    """Undo :func:`fold_when_saved_`."""
    for module in model.modules():
        if isinstance(vars(module).get("save_pretrained"), _SaveFolded):
            del module.save_pretrained


class _SaveFolded:
    """``save_pretrained`` of a copy whose omegas are folded; the model keeps them."""

    def __init__(self, model: Any, fold: Fold) -> None:
        self._model = model
        self._fold = fold

    def __call__(
        self, save_directory: Any, *args: Any, state_dict: Any = None, **kwargs: Any
    ) -> Any:
        if state_dict is not None:
            save = type(self._model).save_pretrained
            return save(self._model, save_directory, *args, state_dict=state_dict, **kwargs)
        plain = copy.deepcopy(self._model)
        self._fold(plain)
        return plain.save_pretrained(save_directory, *args, **kwargs)


def _has_omega(module: nn.Module) -> bool:
    return any(name.rpartition(".")[2] == "omega" for name, _ in module.named_parameters())
