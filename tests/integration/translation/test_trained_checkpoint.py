"""The checkpoint of a training, read as a translation model."""

from pathlib import Path

import pytorch_lightning as pl
from _helpers.translation_checkpoint import config, logits

from admin_init import AdminInit, find_sites
from admin_init._utils.checkpoints import read_checkpoint
from admin_init.translation.checkpoint import fold_checkpoint, load_module
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig


def test_a_checkpoint_of_a_real_training_run(data_bin: Path) -> None:
    data = TranslationDataModule(data_bin, "en", "de", max_tokens=300)
    model = TranslationModule(
        config("post", vocabulary_size=None), OptimizationConfig(warmup_steps=2)
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=8, callbacks=[AdminInit()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, data)
    trainer.save_checkpoint("trained.ckpt")
    omegas = [site.omega for site in find_sites(model) if site.omega is not None]
    assert any((omega != omega[0]).any() for omega in omegas)
    assert fold_checkpoint("trained.ckpt", "folded.ckpt") < 1e-5
    folded = load_module(read_checkpoint("folded.ckpt"))
    difference = (logits(folded) - logits(model.eval())).abs().max() / logits(model).abs().max()
    assert difference < 1e-5
    # It can be trained on, as any model.
    data = TranslationDataModule(data_bin, "en", "de", max_tokens=300)
    pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    ).fit(folded.train(), data)  # fmt: skip
