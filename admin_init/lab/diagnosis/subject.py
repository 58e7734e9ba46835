"""The model to diagnose, from a recipe or a checkpoint, and its batches."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from admin_init._utils.checkpoints import read_checkpoint
from admin_init._utils.validation import PositiveInt, check
from admin_init.adapters.discovery import resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.callbacks.admin_init import AdminInit
from admin_init.errors import AdminInitError
from admin_init.initialize import initialize_
from admin_init.lab.diagnosis.measured import require_transformer
from admin_init.nn.residual import RESIDUAL_STYLES
from admin_init.rescale import apply_, train_omegas_
from admin_init.translation.checkpoint import load_module
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.recipe_cli import RecipeCLI, recipe_cli


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, and the batches to measure it on."""

    module: TranslationModule
    batches: list[TranslationBatch]
    """The first training batches of the recipe."""
    loader: Iterable[TranslationBatch]
    """All training batches of the recipe."""
    origin: str
    """Origin of the weights, in plain language."""


def load_subject(
    recipe: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    batches: PositiveInt = 1,
    seed: int | None = None,
    usage: str | None = None,
) -> Subject:
    """Build the model of a recipe as training does, or load a trained one from a checkpoint.

    A new model is profiled on the first training batch and rescaled, as AdminInit does, if the
    recipe has AdminInit or the residual style ``admin``.

    Args:
        recipe: YAML file for ``admin-init fit``.
        checkpoint: Checkpoint of a model trained on the recipe's data; None for a new model.
        batches: Number of training batches.
        seed: Seed of the weights, instead of the recipe's.
        usage: Usage line for errors in the recipe.

    Raises:
        AdminInitError: The recipe cannot be built, the checkpoint cannot be read or does not fit
            the recipe, the recipe has fewer batches, or the model cannot be observed.
    """
    check(load_subject, locals())
    saved = None if checkpoint is None else read_checkpoint(checkpoint)
    seeded = [] if seed is None else ["--seed_everything", str(seed)]
    settings = {} if usage is None else {"usage": usage}
    built = recipe_cli(["--config", str(recipe), *seeded], run=False, parser_settings=settings)
    data = built.datamodule
    if saved is None:
        module: TranslationModule = built.model
        module.attach(data)
    else:
        module = load_module(saved)
        module.data = data
        known, ids = module.config.vocabulary_size, data.vocabulary_size
        if known != ids:
            raise AdminInitError(
                f"{checkpoint} was trained with {known} subwords, but the data of {recipe} have "
                f"{ids}. Give the recipe with which the checkpoint was trained."
            )
    require_transformer(module)
    first = list(islice(iter(data.train_dataloader()), batches))
    if len(first) < batches:
        raise AdminInitError(
            f"`batches` must be at most {len(first)}, the training batches of {recipe}, but is "
            f"{batches}."
        )
    if saved is not None:
        origin = f"{checkpoint}, after {saved.get('global_step', 0)} updates"
    else:
        origin = f"the initialization of {recipe}"
        if _rescale(built, module, first[0]):
            origin += ", profiled and rescaled by Admin"
    return Subject(module=module, batches=first, loader=data.train_dataloader(), origin=origin)


def _rescale(built: RecipeCLI, module: TranslationModule, batch: TranslationBatch) -> bool:
    """Profile and rescale the model as AdminInit does; return whether the recipe asks for it."""
    callbacks = built.trainer.callbacks  # type: ignore[attr-defined]
    admin = next((callback for callback in callbacks if isinstance(callback, AdminInit)), None)
    if admin is None:
        rule = RESIDUAL_STYLES[module.config.residual].profiled_by
        if rule is None:
            return False
        admin = AdminInit(rule=rule)
    given = admin.given
    if given is None:
        initialize_(
            module,
            batch,
            forward=admin.forward or _forward,
            rule=admin.rule,
            share=admin.share,
            trainable=admin.trainable,
            sites=admin.sites,
        )
    else:
        profile = given if isinstance(given, AdminProfile) else AdminProfile.load(given)
        apply_(module, profile, sites=admin.sites)
        train_omegas_(resolve_sites(module, admin.sites), admin.trainable)
    return True


def _forward(module: TranslationModule, batch: TranslationBatch) -> object:
    return module(batch.source, batch.target_input)
