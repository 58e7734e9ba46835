"""Checks of AdminInit: errors and warnings before training starts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from admin_init.adapters.survey import refused_layers
from admin_init.errors import AdminInitError, ProfileError, TrainedModelError
from admin_init.sites import ResidualSite

if TYPE_CHECKING:
    import pytorch_lightning as pl

_AVERAGING = ("StochasticWeightAveraging", "WeightAveraging")
_UNTESTED_STRATEGIES = (
    "FSDPStrategy",
    "ModelParallelStrategy",
    "DeepSpeedStrategy",
    "XLAStrategy",
    "SingleDeviceXLAStrategy",
)
_TESTED_PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


def check_trainer(trainer: pl.Trainer, callback: object) -> None:
    """Raise an AdminInitError if AdminInit (``callback``) is untested with the trainer's settings.

    Also warns if the trainer has a ``LearningRateFinder``.
    """
    callbacks = getattr(trainer, "callbacks", [])
    if any(type(other).__name__ == "LearningRateFinder" for other in callbacks):
        warnings.warn(
            "LearningRateFinder runs without the other callbacks, so it searches at omega = 1: "
            "the suggested learning rate is for plain Post-LN.",
            stacklevel=2,
        )
    before = callbacks[: callbacks.index(callback)] if callback in callbacks else []
    if first := averaging(before):
        name = type(first[0]).__name__
        raise AdminInitError(
            f"{name} copies the model before AdminInit has added omega to it. Put AdminInit "
            f"before {name} in the Trainer's callbacks."
        )
    if _is_a(trainer.strategy, _UNTESTED_STRATEGIES):
        raise AdminInitError(
            f"AdminInit has not been tested with {type(trainer.strategy).__name__}. "
            "Use a single device or DDP."
        )
    if trainer.precision not in _TESTED_PRECISIONS:
        raise AdminInitError(
            f"AdminInit has not been tested in precision {trainer.precision}, where the profile "
            f"may overflow. Use one of {', '.join(_TESTED_PRECISIONS)}."
        )


def check_training_step(pl_module: pl.LightningModule) -> None:
    """Raise a ProfileError if the model cannot be profiled with its training step."""
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise ProfileError(
            "A `training_step` that takes `dataloader_iter` fetches its batches itself, so "
            "there is no first batch to profile on. Profile beforehand with "
            "`admin_init.profile`, and pass `AdminInit(profile=...)`."
        )


def check_fold(trainer: Any) -> None:
    """Raise an AdminInitError if no folded checkpoint can be written when training ends."""
    if not trainer.checkpoint_callbacks and not trainer.fast_dev_run:
        raise AdminInitError(
            "`fold_on_end` writes a checkpoint beside the others, but the trainer saves none. Add "
            "a ModelCheckpoint, or call `admin_init.fold_(model)` after `fit`."
        )
    if first := averaging(trainer.callbacks):
        raise AdminInitError(
            f"`fold_on_end` would fold the weights before {type(first[0]).__name__} replaces them "
            "by its average. Fold the checkpoint that it saves with `admin-init fold`."
        )


def check_loaded(pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise a ProfileError if the module would silently ignore omegas of a checkpoint."""
    ours = pl_module.state_dict().keys()
    saved = checkpoint.get("state_dict", {})
    lost = [key for key in saved if key.endswith(".omega") and key not in ours]
    if lost:
        raise ProfileError(
            f"The checkpoint has {len(lost)} omegas that this model does not have ({lost[0]} ...). "
            "Load it into the architecture that it was trained with."
        )


@contextmanager
def omega_explained() -> Iterator[None]:
    """Add to an error that speaks of omega where this parameter comes from."""
    try:
        yield
    except Exception as error:
        if "omega" in str(error):
            error.add_note(
                "AdminInit has added a parameter `...omega` to every residual connection. Put "
                "these with the biases, or build the groups with `admin_init.parameter_groups`."
            )
        raise


def check_untrained(sites: list[ResidualSite]) -> None:
    """Raise a TrainedModelError if the norms or omegas of ``sites`` are not freshly initialized."""
    if not any(site.template.requires_grad for site in sites):
        raise TrainedModelError(
            "All layer norms are frozen, but Admin initializes a model for training. Unfreeze "
            "them, or pass `force=True`."
        )
    for site in sites:
        # Some libraries add 1 to a gain that starts at 0.
        offset = getattr(site.norm, "unit_offset", False)
        for what, value, initial in (
            ("norm gain", site.gain, 0 if offset else 1),
            ("norm bias", getattr(site.norm, "bias", None), 0),
            ("omega", site.omega, 1),
        ):
            if isinstance(value, torch.Tensor) and (value != initial).any():
                raise TrainedModelError(
                    f"The model looks trained: the {what} of `{site.name}` is not {initial} "
                    "everywhere. Rescaling would change the function that it learned. Leave "
                    "AdminInit out to train it further, resume with `ckpt_path`, start from an "
                    "initialized model, leave out the trained part with `exclude=`, or pass "
                    "`force=True`."
                )


def warn_unoptimized(optimizers: Sequence[Optimizer], sites: list[ResidualSite]) -> None:
    """Warn if trainable omegas are in no optimizer."""
    optimized = {
        id(parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    left_out = [
        site.name
        for site in sites
        if site.omega is not None and site.omega.requires_grad and id(site.omega) not in optimized
    ]
    if left_out:
        warnings.warn(
            f"No optimizer has {len(left_out)} of the omegas (such as that of "
            f"`{left_out[0]}`), so they stay at their profiled values. Build "
            "the optimizer from the parameters of the model that has them (in Lightning, in "
            "`configure_optimizers` from `self.parameters()`).",
            stacklevel=2,
        )


def profiles_anew(step: int, sites: Sequence[ResidualSite], *, warn: bool) -> bool:
    """Return whether to profile though the run resumes at ``step`` with a checkpoint without one.

    Only a checkpoint from before the first update, whose omegas are all 1, is profiled. ``warn``
    says what is done.
    """
    plain = all((site.omega == 1).all() for site in sites if site.omega is not None)
    anew = step == 0 and plain
    state = "all 1, as in plain Post-LN" if plain else "not all 1"
    if warn:
        warnings.warn(
            f"The checkpoint that this run resumes from, at update {step}, holds no "
            f"profile, and its omegas are {state}. "
            + (
                "AdminInit profiles now."
                if anew
                else "AdminInit keeps them. To train with Admin, start without `ckpt_path`."
                if plain
                else "AdminInit keeps them."
            ),
            stacklevel=2,
        )
    return anew


def warn_unsupported_layers(pl_module: pl.LightningModule) -> None:
    """Warn of layers that Admin does not apply to."""
    if reasons := list(refused_layers(pl_module).values()):
        warnings.warn(
            f"AdminInit leaves {len(reasons)} layers of this model unchanged: {reasons[0]}"
            f"{' ...' if len(reasons) > 1 else ''}.",
            stacklevel=2,
        )


def averaging(callbacks: Sequence[Any]) -> list[Any]:
    """Return the callbacks that keep an averaged copy of the model."""
    return [callback for callback in callbacks if _is_a(callback, _AVERAGING)]


def _is_a(instance: object, names: Sequence[str]) -> bool:
    """Compare class names, because either package of Lightning may be in use."""
    return any(cls.__name__ in names for cls in type(instance).__mro__)
