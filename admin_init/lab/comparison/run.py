"""One run of a comparison, from the seed to its result."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from admin_init._utils.atomic_files import write_checked
from admin_init._utils.memory import keep_freed_memory
from admin_init._utils.weight_averaging import average_checkpoints
from admin_init.adapters.discovery import find_sites
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.callbacks.admin_init import AdminInit
from admin_init.callbacks.atomic_checkpoint_io import WholeCheckpointIO
from admin_init.callbacks.random_state import RandomState
from admin_init.callbacks.stability_monitor import StabilityMonitor
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Variant
from admin_init.lab.comparison.history import History
from admin_init.lab.comparison.result import RESULT, Result, make_result
from admin_init.nn import TransformerConfig
from admin_init.nn.residual import RESIDUAL_STYLES
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.scoring import Bleu
from admin_init.translation.search import SearchConfig

SNAPSHOT = "snapshot-"


def build(
    comparison: Comparison, variant: Variant, vocabulary_size: int | None
) -> TranslationModule:
    """Build the module of a variant.

    Raises:
        TypeError: A setting is unknown, or is set by the grid.
        ValueError: A setting is out of range.
    """
    own = comparison.of(variant)
    encoder_layers, decoder_layers = variant.layers
    ramp = {"warmup_steps": own.max_steps, "initial_learning_rate": 0.0} if own.ramp else {}
    module = TranslationModule(
        TransformerConfig(
            **own.transformer,
            vocabulary_size=vocabulary_size,
            residual=variant.residual,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
        ),
        OptimizationConfig(**own.optimization | ramp, learning_rate=variant.learning_rate),
        SearchConfig(**own.search),
        label_smoothing=own.label_smoothing,
        fairseq=own.fairseq,
    )
    _admin(own, variant)  # refuses wrong options
    return module


def train(
    comparison: Comparison,
    variant: Variant,
    entropy: float,
    on_update: Callable[[int], None] | None = None,
) -> Result:
    """Train and judge one variant; resume the run if it was interrupted.

    Args:
        comparison: Settings of the comparison.
        variant: The run to train.
        entropy: Unigram entropy of the target side, in nats.
        on_update: Called after each update, with the number of updates so far.
    """
    own = comparison.of(variant)
    folder = Path(comparison.output) / variant.name
    pl.seed_everything(variant.seed, verbose=False)
    data = TranslationDataModule(
        Path(comparison.output) / "data-bin",
        comparison.corpus.source_lang,
        comparison.corpus.target_lang,
        max_tokens=own.max_tokens,
        seed=variant.seed,
    )
    module = build(comparison, variant, data.vocabulary_size)
    admin = _admin(own, variant)
    for callback in admin:
        if own.omega is not None:
            callback.given = _constant_profile(module, own.omega)
    history = History(
        on_update,
        max_seconds=60 * (comparison.max_minutes or math.inf),
        norms_every=comparison.validate_every,
        initial=comparison.sensitivity,
    )
    callbacks = [
        *admin,
        history,
        RandomState(),
        *([StabilityMonitor(comparison.monitor_every)] if comparison.monitor_every else []),
        # After each validation, because Lightning does not repeat one when a run is resumed.
        ModelCheckpoint(
            folder, "last", save_on_train_epoch_end=False, enable_version_counter=False
        ),
        *([_snapshots(folder)] if comparison.average > 1 else []),
    ]
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        precision=own.precision,
        max_steps=-1 if comparison.max_steps is None else comparison.max_steps,
        max_epochs=-1,
        val_check_interval=comparison.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, comparison.validate_every),
        logger=TensorBoardLogger(
            comparison.output, name="", version=variant.name, default_hp_metric=False
        ),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
    )
    checkpoint = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    course = history.course
    if not course.validation or course.validation[-1].step < trainer.global_step:
        trainer.save_checkpoint(checkpoint, weights_only=False)
        trainer.validate(module, data, verbose=False)
    bleu = None
    if comparison.bleu and math.isfinite(course.validation[-1].nll):
        if comparison.average > 1:
            snapshots = sorted(folder.glob(f"{SNAPSHOT}*.ckpt"), key=_step)[-comparison.average :]
            module.load_state_dict(average_checkpoints(snapshots)["state_dict"])
        trainer.test(module, data, verbose=False)
        bleu = module.bleu
    elif comparison.bleu:
        # Beam search cannot rank hypotheses whose scores are NaN.
        bleu = Bleu(0.0, "")
    result = make_result(comparison, variant, course, entropy, bleu)
    _log_outcome(trainer.logger, variant, result)
    write_checked(folder / RESULT, result.to_dict())
    return result


def _admin(comparison: Comparison, variant: Variant) -> list[AdminInit]:
    """Return the callback that sets the omegas, if a profile belongs to the style.

    Raises:
        TypeError: An option is unknown.
        ValueError: An option is out of range.
    """
    rule = RESIDUAL_STYLES[variant.residual].profiled_by
    if rule is None:
        return []
    options = {"rule": rule, **comparison.admin}
    if options["rule"] != "share":
        options.pop("share", None)
    return [AdminInit(**options)]


def _constant_profile(module: TranslationModule, omega: float) -> AdminProfile:
    return AdminProfile(
        sites=tuple(
            SiteProfile(site.name, site.stack, variance=0, omega=omega, elements=0)
            for site in find_sites(module)
        )
    )


def _log_outcome(logger: Any, variant: Variant, result: Result) -> None:
    """Add the run to TensorBoard's HParams table."""
    given = {axis: value for axis, value in variant.axes.items() if value is not None}
    metrics = {
        "final/trained": float(result.trained),
        "final/val_nll": result.val_nll,
        "final/source_gain": result.source_gain,
        "final/grad_norm": result.grad_norm,
    }
    if result.bleu is not None:
        metrics["final/bleu"] = result.bleu
    logger.log_hyperparams(given, metrics)
    logger.finalize("success")


def _snapshots(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder,
        SNAPSHOT + "{step}",
        monitor="val_nll",  # all are kept; Lightning tells two checkpoint callbacks apart by it
        save_top_k=-1,
        save_weights_only=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def _step(snapshot: Path) -> int:
    return int(snapshot.stem.rpartition("=")[2])


def enter_worker(threads: int) -> None:
    """Set up a worker process: its number of threads, and no messages between progress bars."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    # Both Lightning packages share this logger; its name depends on which is imported first.
    rank_zero.log.setLevel(logging.ERROR)
