"""The model that is diagnosed, and its batches: of a recipe, or of a checkpoint."""

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
from admin_init.lab.diagnosis.measured import observable
from admin_init.rescale import apply_, train_omegas_
from admin_init.translation.checkpoint import load_module
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.recipe_cli import RecipeCLI, recipe_cli


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, and what it is measured on."""

    module: TranslationModule
    batches: list[TranslationBatch]
    """The first training batches of the recipe."""
    loader: Iterable[TranslationBatch]
    """All its training batches, from the first on."""
    origin: str
    """Where the weights come from, in plain language."""


def load_subject(
    recipe: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    batches: PositiveInt = 1,
    seed: int | None = None,
    usage: str | None = None,
) -> Subject:
    """Build the model of a recipe as training would, or load one that it trained.

    A new model whose recipe has AdminInit is profiled and rescaled as AdminInit does, on the first
    training batch; so is one with the residual style ``admin``.

    Args:
        recipe: A YAML file that ``admin-init fit`` takes.
        checkpoint: Of a model that was trained on the recipe's data.
        batches: How many training batches.
        seed: Of the weights, in place of the recipe's.
        usage: Usage line of errors in the recipe.

    Raises:
        AdminInitError: The recipe cannot be built or the checkpoint cannot be read, they do not
            belong together, there are fewer batches, or the model cannot be observed.
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
                f"{ids}. Give the recipe that it was trained with."
            )
    observable(module)
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
    """Do what AdminInit would on the first batch, and say whether it would."""
    callbacks = built.trainer.callbacks  # type: ignore[attr-defined]
    admin = next((callback for callback in callbacks if isinstance(callback, AdminInit)), None)
    if admin is None:
        if module.config.residual != "admin":
            return False
        admin = AdminInit()
    given = admin.given
    if given is None:
        initialize_(
            module,
            batch,
            forward=admin.forward or _forward,
            rule=admin.rule,
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
