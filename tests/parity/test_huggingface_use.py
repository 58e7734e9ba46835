"""Hugging Face's models in use: generation, a Trainer with a checkpoint, pre-trained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.small_huggingface import (
    FAMILIES,
    bart,
    batch_of,
    bert,
    bert_to_bert,
    build,
    deberta,
    marian,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

import admin_init
from admin_init import AdminInit, TrainedModelError
from admin_init.adapters.discovery import find_sites

DECODERS = {"BERT, decoder": bert_to_bert, "BART": bart, "Marian": marian}


@pytest.mark.support
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", DECODERS)
def test_generation_before_and_after_fold(
    family: str, beams: int, cells: Callable[..., None]
) -> None:
    torch.manual_seed(0)
    # Float64, so that no two tokens are so close that rounding could exchange them.
    # With tied embeddings, a model that was never trained repeats its first token.
    model = DECODERS[family](tie_word_embeddings=False).double().eval()
    batch = batch_of(model)
    del batch["decoder_input_ids"]

    def generate(use_cache: bool = True) -> Tensor:
        tokens: Tensor = model.generate(
            **batch, max_new_tokens=12, num_beams=beams, do_sample=False, use_cache=use_cache
        )
        return tokens

    plain = generate()
    admin_init.apply_(model, admin_init.profile(model, [batch_of(model)]))
    rescaled = generate()
    assert not rescaled.equal(plain)
    assert len(rescaled.unique()) > 5
    assert generate(use_cache=False).equal(rescaled)
    admin_init.fold_(model)
    assert generate().equal(rescaled)
    cells("Models", family, generate="the same tokens")


@pytest.mark.support
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in DECODERS])
def test_encoders_generate_nothing(family: str, cells: Callable[..., None]) -> None:
    assert not build(family).can_generate()
    cells("Models", family, generate="-")


@pytest.mark.parametrize("small", [bert, bart])
def test_omegas_that_were_saved_are_taken_back_where_they_are_installed(
    small: Callable[[], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = small().eval()
    batch = batch_of(model)
    admin_init.apply_(model, admin_init.profile(model, [batch]))
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    # Without them it is another model: transformers says so, and saves folded weights by default.
    omegas = {key for key in model.state_dict() if key.endswith(".omega")}
    assert set(report["unexpected_keys"]) == omegas
    admin_init.install_(loaded.eval(), sites=find_sites(loaded, batch))
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert loaded(**batch).logits.equal(model(**batch).logits)


def test_a_compiled_model() -> None:
    torch.manual_seed(0)
    model = bart().eval()
    batch = batch_of(model)
    admin_init.apply_(model, admin_init.profile(model, [batch]))
    compiled = torch.compile(model, backend="eager")
    assert compiled(**batch).logits.equal(model(**batch).logits)


class Module(pl.LightningModule):
    def __init__(self, small: Callable[[], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = small().train()
        self.losses: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        if torch.is_grad_enabled():
            self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def batches(model: Any) -> DataLoader[Any]:
    batch = batch_of(model)
    batch["labels"] = batch.pop("decoder_input_ids", batch["input_ids"])
    return DataLoader([batch] * 6, batch_size=None)


def fit(
    module: Module, *, steps: int, folder: Path, ckpt_path: Path | None = None, **kwargs: Any
) -> tuple[AdminInit, pl.Trainer]:
    callback = AdminInit(**kwargs)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        default_root_dir=folder,
    )
    trainer.fit(module, batches(module.model), ckpt_path=ckpt_path)
    return callback, trainer


@pytest.mark.parametrize("small", [bert, marian])
def test_a_trainer_with_checkpoint_and_resume(small: Callable[[], Any], tmp_path: Path) -> None:
    module = Module(small)
    callback, trainer = fit(module, steps=3, folder=tmp_path)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    assert callback.profile is not None
    first, *others = find_sites(module)
    assert first.omega is not None
    assert (first.omega == 1).all()
    omegas = {site.name: site.omega for site in callback.profile.sites}
    for site in others:
        assert site.omega is not None
        if site.previous is not None:
            # Profiled, then trained by three steps of at most the learning rate.
            assert 0 < (site.omega - omegas[site.name]).abs().max() < 0.05
    assert len(module.losses) == 3
    assert module.losses[-1] < module.losses[0]

    resumed = Module(small)
    again, _ = fit(resumed, steps=5, folder=tmp_path, ckpt_path=tmp_path / "three.ckpt")
    assert again.profile == callback.profile
    assert len(resumed.losses) == 2
    assert resumed.losses[-1] < module.losses[-1]


@pytest.mark.support
@pytest.mark.parametrize("small", [bert, deberta])
def test_a_pretrained_model_is_refused_unless_forced(
    small: Callable[[], Any], tmp_path: Path, cells: Callable[..., None]
) -> None:
    torch.manual_seed(0)
    model = small().train()
    batch = batch_of(model)
    optimizer = torch.optim.Adam(model.parameters())
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path)

    def pretrained() -> Any:
        return type(model).from_pretrained(tmp_path)

    message = r"looks trained: the norm gain of `model\..*force"
    with pytest.raises(TrainedModelError, match=message) as refusal:
        fit(Module(pretrained), steps=1, folder=tmp_path)
    callback, _ = fit(Module(pretrained), steps=1, folder=tmp_path, force=True)
    assert callback.profile is not None
    refused = dict.fromkeys(("profile", "rescale", "fold", "generate"), "refused")
    cells("Models", "a trained model, by AdminInit unless forced", **refused)
    cells("Refusals", "a trained model", message=str(refusal.value).partition(". ")[0])
