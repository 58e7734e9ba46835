"""One run of a comparison, from the seed to its result."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from admin_init.callbacks.admin import AdminInit
from admin_init.callbacks.random_state import RandomState
from admin_init.files import read_json, write_json
from admin_init.lab.comparison import Comparison, Variant
from admin_init.lab.history import History
from admin_init.nn import TransformerConfig
from admin_init.translation.averaging import average_checkpoints
from admin_init.translation.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.processes import end_with_parent
from admin_init.translation.scoring import Bleu
from admin_init.translation.search import SearchConfig

RESULT = "result.json"
SNAPSHOT = "snapshot-"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run."""

    run: str
    """Name of the run, and of its folder."""
    residual: str
    """Residual style."""
    depth: str
    """Encoder and decoder layers."""
    learning_rate: float
    """Highest learning rate."""
    seed: int
    """Of the initialization, the batches and dropout."""
    trained: bool
    """Whether it trained, by the criteria of the comparison."""
    reason: str
    """Why it is said to have trained, or failed."""
    val_nll: float
    """Final validation NLL, nats per target token, not smoothed."""
    source_gain: float
    """How much that rises when the sources are shuffled."""
    bleu: float | None
    """sacreBLEU on the test split, where asked for; 0 where the model computes NaN."""
    bleu_signature: str | None
    """sacreBLEU's signature: how the score was computed."""
    grad_norm: float
    """Median over the updates of the 2-norm of all gradients."""
    seconds: float
    """Training and validation."""
    history: dict[str, Any]
    """Losses and gradient norms of all updates, and all validations."""

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a finished run's result."""
        values = read_json(path)
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def row(self) -> dict[str, Any]:
        """Return all but the history, for tables."""
        return {key: value for key, value in asdict(self).items() if key != "history"}


def build(
    comparison: Comparison, variant: Variant, vocabulary_size: int | None
) -> TranslationModule:
    """Build the module of a variant.

    Raises:
        TypeError: A setting is unknown, or is one that the grid gives.
        ValueError: A setting is out of its range.
    """
    return TranslationModule(
        TransformerConfig(
            **comparison.transformer,
            vocabulary_size=vocabulary_size,
            residual=variant.residual,
            encoder_layers=variant.encoder_layers,
            decoder_layers=variant.decoder_layers,
        ),
        OptimizationConfig(**comparison.optimization, learning_rate=variant.learning_rate),
        SearchConfig(**comparison.search),
        label_smoothing=comparison.label_smoothing,
        fairseq=comparison.fairseq,
    )


def finished(comparison: Comparison, variant: Variant, entropy: float) -> Result | None:
    """Return the result of a variant that was trained before, judged by the criteria of now."""
    path = Path(comparison.output) / variant.name / RESULT
    if not path.exists():
        return None
    before = Result.load(path)
    bleu = None if before.bleu is None else Bleu(before.bleu, before.bleu_signature or "")
    return _result(comparison, variant, before.history, entropy, bleu)


def train(
    comparison: Comparison,
    variant: Variant,
    entropy: float,
    on_update: Callable[[int], None] | None = None,
) -> Result:
    """Train and judge one variant; take up a run that was interrupted.

    Args:
        comparison: What all the runs have in common.
        variant: Which run.
        entropy: Unigram entropy of the target side, in nats.
        on_update: Called with the number of updates after each of them.
    """
    folder = Path(comparison.output) / variant.name
    pl.seed_everything(variant.seed, verbose=False)
    data = TranslationDataModule(
        Path(comparison.output) / "data-bin",
        comparison.corpus.source_lang,
        comparison.corpus.target_lang,
        max_tokens=comparison.max_tokens,
        seed=variant.seed,
    )
    module = build(comparison, variant, data.vocabulary_size)
    history = History(on_update)
    callbacks = [
        *([AdminInit()] if variant.residual == "admin" else []),
        history,
        RandomState(),
        # After each validation, because Lightning does not repeat it where a run is taken up.
        ModelCheckpoint(
            folder, "last", save_on_train_epoch_end=False, enable_version_counter=False
        ),
        *([_snapshots(folder)] if comparison.average > 1 else []),
    ]
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=comparison.max_steps,
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
    )
    checkpoint = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    course = history.state_dict()
    if not course["validation"] or course["validation"][-1]["step"] < trainer.global_step:
        trainer.save_checkpoint(checkpoint, weights_only=False)
        trainer.validate(module, data, verbose=False)
    bleu = None
    if comparison.bleu and math.isfinite(course["validation"][-1]["nll"]):
        if comparison.average > 1:
            snapshots = sorted(folder.glob(f"{SNAPSHOT}*.ckpt"), key=_step)[-comparison.average :]
            module.load_state_dict(average_checkpoints(snapshots)["state_dict"])
        trainer.test(module, data, verbose=False)
        bleu = module.bleu
    elif comparison.bleu:
        # A model that computes NaN has nothing to search for.
        bleu = Bleu(0.0, "")
    result = _result(comparison, variant, course, entropy, bleu)
    write_json(folder / RESULT, asdict(result))
    return result


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


def _result(
    comparison: Comparison,
    variant: Variant,
    course: dict[str, Any],
    entropy: float,
    bleu: Bleu | None,
) -> Result:
    last = course["validation"][-1]
    nlls = [entry["nll"] for entry in course["validation"]]
    verdict = comparison.criteria.judge(nlls, last["source_gain"], entropy)
    norms = [norm for norm in course["grad_norm"] if math.isfinite(norm)]
    return Result(
        run=variant.name,
        residual=variant.residual,
        depth=variant.depth,
        learning_rate=variant.learning_rate,
        seed=variant.seed,
        trained=verdict.trained,
        reason=verdict.reason,
        val_nll=last["nll"],
        source_gain=last["source_gain"],
        bleu=None if bleu is None else bleu.score,
        bleu_signature=None if bleu is None else bleu.signature,
        grad_norm=statistics.median(norms) if norms else math.nan,
        seconds=course["seconds"],
        history=course,
    )


def enter_worker(threads: int) -> None:
    """Prepare a worker process: its share of the cores, and no chatter between progress bars.

    It ends when its parent does, however that ended: a repeated comparison must find nobody else
    writing to its folders.
    """
    end_with_parent()
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    # The one logger of both distributions of Lightning; which it is depends on the imports.
    rank_zero.log.setLevel(logging.ERROR)
