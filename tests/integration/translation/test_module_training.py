"""The translation module in a Trainer."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.small_translation import BATCH, data, module, trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

import admin_init
from admin_init.translation.module import TranslationModule


def test_what_is_logged_in_training(data_bin: Path) -> None:
    model = module(vocabulary_size=None)
    fit = trainer(max_steps=3, val_check_interval=2)
    fit.fit(model, data(data_bin))
    assert {"train_loss", "val_nll", "val_source_gain"} <= fit.callback_metrics.keys()


def test_the_vocabulary_is_that_of_the_data(data_bin: Path) -> None:
    model = module(vocabulary_size=None)
    assert not hasattr(model, "transformer")
    assert "vocabulary_size" in model.hparams["transformer"]
    source = data(data_bin)
    trainer(max_steps=1).fit(model, source)
    assert model.transformer.output_proj.out_features == source.vocabulary_size
    assert model.hparams["transformer"]["vocabulary_size"] == source.vocabulary_size


def test_without_a_data_module_there_are_no_subwords() -> None:
    model = module(vocabulary_size=12)
    with pytest.raises(TypeError, match="from a TranslationDataModule, but has NoneType"):
        model.translate(BATCH.source)
    with pytest.raises(TypeError, match="from a TranslationDataModule, but has NoneType"):
        trainer().fit(module(vocabulary_size=None), [BATCH])


@pytest.mark.parametrize("residual", ["post", "admin"])
def test_admin_trains_it_and_its_checkpoint_loads(data_bin: Path, residual: str) -> None:
    model, source = module(vocabulary_size=None, residual=residual), data(data_bin)
    losses: list[float] = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            losses.append(float(args[2]["loss"]))

    admin = admin_init.AdminInit()
    fit = trainer(max_epochs=3, callbacks=[admin, Losses()])
    fit.fit(model, source)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert admin.profile is not None
    omegas = [site.omega for site in admin_init.find_sites(model)]
    profiled = {site.name: site.omega for site in admin.profile.sites}
    assert len(omegas) == len(profiled) == 10
    assert all(omega is not None for omega in omegas)
    for stack in ("encoder", "decoder"):
        chain = [site.omega for site in admin.profile.sites if site.stack == stack]
        assert chain[0] == 1
        assert all(before < after for before, after in pairwise(chain))

    fit.save_checkpoint("model.ckpt")
    saved = torch.load("model.ckpt", weights_only=True)
    assert sum(key.endswith(".omega") for key in saved["state_dict"]) == 10
    again = TranslationModule.load_from_checkpoint("model.ckpt").eval()
    batch = next(iter(source.val_dataloader()))
    with torch.no_grad():
        ours: Tensor = model.eval()(batch.source, batch.target_input)
        assert torch.equal(again(batch.source, batch.target_input), ours)
    assert again.config == model.config
    assert again.optimization == model.optimization
    assert again.search == model.search
    assert again.label_smoothing == 0.1


@pytest.mark.parametrize("clip", [None, 1.0])
def test_gradients_can_be_clipped_in_bfloat16(clip: float | None, data_bin: Path) -> None:
    # Which Lightning refuses for a fused optimizer.
    run = trainer(max_steps=2, precision="bf16-mixed", gradient_clip_val=clip)
    run.fit(module(), data(data_bin))
    assert run.optimizers[0].defaults["fused"] is (True if clip is None else None)


def test_gradients_are_shown_unscaled(data_bin: Path) -> None:
    """To callbacks, where Lightning leaves it to a fused optimizer to undo a GradScaler's scale."""

    class Norms(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.seen.append(torch.nn.utils.get_total_norm(gradients))

    norms = []
    for plugins in ([], [MixedPrecision("16-mixed", "cpu")]):
        callback = Norms()
        run = trainer(max_steps=1, plugins=plugins, callbacks=[callback])
        run.fit(module(), data(data_bin))
        norms += callback.seen
    plain, scaled = norms
    torch.testing.assert_close(scaled, plain, rtol=0.05, atol=0)
