"""AdminInit with the rule ``share`` on Pre-LN models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers import small_translation
from _helpers.small_lightning import data, encoder, module, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from admin_init import AdminInit, fold_
from admin_init.adapters.discovery import known_sites
from admin_init.translation.checkpoint import load_module


def pre_ln(lightning: Any = None, **parts: Any) -> Any:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 16), encoder(norm_first=True))
    model[1].norm = nn.LayerNorm(16)
    arguments = [] if lightning is None else [lightning]
    return module(*arguments, model=model, **parts)


def stream_omegas(model: nn.Module) -> list[Tensor]:
    return [site.omega.detach().clone() for site in known_sites(model) if site.omega is not None]


def test_the_input_is_scaled_before_the_training_and_not_trained(tmp_path: Path) -> None:
    seen: list[bool] = []
    model = pre_ln(spy=lambda *_: seen.append(torch.is_grad_enabled()))
    callback = AdminInit(rule="share", share=0.9)
    trainer(callbacks=[callback], max_steps=3).fit(model, data())
    assert callback.profile is not None
    (site,) = callback.profile.sites
    assert site.name == "model.0"
    scaled = site.omega**2 * site.shortcut_variance
    assert scaled / (scaled + site.variance) == pytest.approx(0.9, rel=1e-5)
    (omega,) = stream_omegas(model)
    assert torch.equal(omega, torch.full((16,), site.omega))
    # One more pass finds the stream before the optimizer is built.
    assert seen == [False] * (1 + callback.profile.passes) + [True] * 3


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = pre_ln()
    trainer(callbacks=[AdminInit(rule="share")], max_epochs=2).fit(whole, data())
    first = pre_ln()
    run = trainer(callbacks=[callback := AdminInit(rule="share")])
    run.fit(first, data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    second = pre_ln()
    again = AdminInit(rule="share")
    torch.manual_seed(5)
    trainer(callbacks=[again], max_epochs=2).fit(second, data(), ckpt_path=tmp_path / "last.ckpt")
    assert again.profile == callback.profile
    (ours,), (theirs,) = stream_omegas(second), stream_omegas(whole)
    assert torch.equal(ours, theirs)


def test_the_folded_checkpoint_is_that_of_a_plain_model(tmp_path: Path) -> None:
    model = pre_ln()
    settings = {"default_root_dir": tmp_path, "enable_checkpointing": True, "max_steps": 2}
    trainer(callbacks=[AdminInit(rule="share", fold_on_end=True)], **settings).fit(model, data())
    (folded,) = tmp_path.rglob("folded.ckpt")
    plain = pre_ln()
    plain.load_state_dict(torch.load(folded, weights_only=True)["state_dict"])
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(plain.eval()(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_a_translation_model_is_loaded_with_the_scale_of_its_input(tmp_path: Path) -> None:
    model = small_translation.module(residual="pre-share", vocabulary_size=20)
    callback = AdminInit(rule="share", share=0.8)
    run = trainer(callbacks=[callback], max_steps=2)
    run.fit(model, DataLoader([small_translation.BATCH] * 2, batch_size=None))
    assert callback.profile is not None
    assert [site.name for site in callback.profile.sites] == [
        "transformer.encoder_embedding",
        "transformer.decoder_embedding",
    ]
    run.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    loaded = load_module(checkpoint)
    batch = small_translation.BATCH
    expected = model.eval()(batch.source, batch.target_input)
    torch.testing.assert_close(loaded(batch.source, batch.target_input), expected)
    assert len(stream_omegas(loaded)) == 2
    with pytest.raises(ValueError, match="cannot be folded"):
        fold_(copy.deepcopy(model))
