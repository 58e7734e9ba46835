"""The same weights on the same batches: both engines train alike."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl

from admin_init import AdminInit
from admin_init.fairseq.weights import from_fairseq
from admin_init.nn import TransformerConfig
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.multi30k import multi30k
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.preparation.prepare import prepare

MULTI30K = Path("data/multi30k").resolve()  # tests run in folders of their own


class Losses(pl.Callback):
    """Keeps the loss of every update."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


def trained(module: TranslationModule, data: Path, steps: int, left_pad: bool) -> list[float]:
    losses = Losses()
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[AdminInit(), losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    batches = TranslationDataModule(data, "en", "de", max_tokens=1024, left_pad_source=left_pad)
    trainer.fit(module, batches)
    return losses.losses


def largest_difference(data: Path, shape: dict[str, int], steps: int, left_pad: bool) -> float:
    """Train both engines; return how far their losses are apart, relative to fairseq's."""
    pl.seed_everything(1, verbose=False)
    size = TranslationDataModule(data, "en", "de").vocabulary_size
    config = TransformerConfig(vocabulary_size=size, dropout=0.0, residual="admin", **shape)
    schedule = OptimizationConfig(learning_rate=2e-3, warmup_steps=25)
    theirs = TranslationModule(config, schedule, fairseq=FairseqConfig())
    ours = TranslationModule(config, schedule)
    ours.transformer.load_state_dict(
        ours.transformer.state_dict() | from_fairseq(theirs.transformer.model.state_dict())
    )
    expected = np.array(trained(theirs, data, steps, left_pad))
    found = np.array(trained(ours, data, steps, left_pad))
    assert len(expected) == steps
    # They learn something meanwhile, so that being alike says something.
    assert expected[-3:].mean() < expected[0] - 0.1
    return float(np.abs(found / expected - 1).max())


@pytest.mark.parametrize("left_pad", [False, True])
def test_a_few_updates(tmp_path: Path, left_pad: bool) -> None:
    prepare(
        CorpusConfig(train=500, valid=10, test=10).open(), tmp_path / "data", vocabulary_size=300
    )
    shape = {"dim": 32, "ffn_dim": 64, "heads": 4, "encoder_layers": 3, "decoder_layers": 3}
    assert largest_difference(tmp_path / "data", shape, 15, left_pad) < 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not MULTI30K.exists(), reason=f"needs {MULTI30K}, which prepare downloads")
def test_fifty_updates_on_multi30k(tmp_path: Path) -> None:
    shutil.copytree(MULTI30K, tmp_path / "raw")
    prepare(multi30k(tmp_path / "raw"), tmp_path / "data", vocabulary_size=4000)
    shape = {"dim": 128, "ffn_dim": 512, "heads": 4, "encoder_layers": 6, "decoder_layers": 6}
    difference = largest_difference(tmp_path / "data", shape, 50, left_pad=True)
    print(f"largest relative difference of 50 losses: {difference:.1e}")  # noqa: T201
    assert difference < 1e-3
