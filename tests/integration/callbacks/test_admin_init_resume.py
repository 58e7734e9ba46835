"""AdminInit in a run that resumes, and in a second fit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.small_lightning import (
    data,
    encoder,
    first_omegas,
    module,
    omegas,
    trainer,
    with_validation,
)
from torch import Tensor

from admin_init import AdminInit, AdminProfile, ProfileError, find_sites, install_


def test_a_checkpoint_saved_within_a_step_resumes(tmp_path: Path) -> None:
    # As by a handler of a signal, or at an exception: Lightning computes the loss in a closure that
    # the optimizer's step calls.
    def save(pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if pl_module.trainer.global_step == 2:
            pl_module.trainer.save_checkpoint(tmp_path / "within.ckpt")
            raise ZeroDivisionError

    run = trainer(callbacks=[AdminInit()])
    with pytest.raises(ZeroDivisionError):
        run.fit(module(spy=save), data())
    run.save_checkpoint(tmp_path / "after.ckpt")
    for name in ("within.ckpt", "after.ckpt"):
        resumed = trainer(callbacks=[AdminInit()], max_epochs=2)
        resumed.fit(module(), data(), ckpt_path=tmp_path / name)
        assert resumed.global_step > 2


def test_resume_keeps_omega_and_never_profiles_again(tmp_path: Path, lightning: ModuleType) -> None:
    passes: list[bool] = []

    def spy(*args: Any) -> None:
        passes.append(torch.is_grad_enabled())

    checkpoint = tmp_path / "last.ckpt"
    model, callback = module(lightning, spy=spy), AdminInit()
    run = trainer(lightning, callbacks=[callback])
    run.fit(model, data())
    run.save_checkpoint(checkpoint)
    torch.load(checkpoint, weights_only=True)
    before = omegas(model)
    assert passes.count(False) == 1

    resumed, again = module(lightning, spy=spy), AdminInit()
    loaded: list[Tensor] = []

    class Check(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            loaded.extend(omegas(pl_module))

    trainer(lightning, callbacks=[again, Check()], max_epochs=2).fit(
        resumed, data(), ckpt_path=checkpoint
    )
    assert passes.count(False) == 1
    assert all(map(torch.equal, loaded, before))
    assert again.profile == callback.profile


def test_a_second_fit_goes_on_without_a_second_profile() -> None:
    passes: list[bool] = []
    model = module(spy=lambda *args: passes.append(torch.is_grad_enabled()))
    run = trainer(callbacks=[AdminInit()])
    run.fit(model, data())
    run.fit_loop.max_epochs = 2
    run.fit(model, data())
    assert passes.count(False) == 1


def test_a_checkpoint_without_omega_resumes_at_one_with_a_warning(tmp_path: Path) -> None:
    run = trainer()
    run.fit(module(), data())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    checkpoint = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    model = module()
    with pytest.warns(UserWarning, match="has no omega"):
        trainer(callbacks=[AdminInit()]).validate(
            with_validation(model), data(), ckpt_path=tmp_path / "plain.ckpt", verbose=False
        )
    assert first_omegas(model) == [1.0] * 6
    assert torch.equal(model.state_dict()["norm.weight"], checkpoint["state_dict"]["norm.weight"])


def test_omegas_that_would_be_dropped_silently_are_an_error(tmp_path: Path) -> None:
    run = trainer(callbacks=[AdminInit()])
    run.fit(module(), data())
    run.save_checkpoint(tmp_path / "deep.ckpt")
    shallow = with_validation(module(model=encoder(layers=2)))
    shallow.strict_loading = False
    with pytest.raises(ProfileError, match="2 omegas that this model does not have"):
        trainer(callbacks=[AdminInit()]).validate(
            shallow, data(), ckpt_path=tmp_path / "deep.ckpt", verbose=False
        )


def test_a_second_fit_keeps_the_profile_for_its_checkpoints(tmp_path: Path) -> None:
    model, callback = module(), AdminInit()
    run = trainer(callbacks=[callback])
    run.fit(model, data())
    run.fit_loop.max_epochs = 2
    run.fit(model, data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["AdminInit"]
    assert callback.profile is not None
    assert AdminProfile.from_dict(saved["profile"]) == callback.profile


def step_0(how: str, folder: Path, lightning: ModuleType) -> Path:
    """A checkpoint that was saved before any update, and before any profile."""
    path = folder / "step0.ckpt"

    def failing(*_: object) -> None:
        raise RuntimeError("out of memory")

    if how == "plain":
        run = trainer(lightning)
        run.strategy.connect(module(lightning))
        run.save_checkpoint(path)
        return path
    saves = importlib.import_module(f"{lightning.__name__}.callbacks").OnExceptionCheckpoint
    callbacks = [saves(folder, "step0"), AdminInit()]
    run = trainer(lightning, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.fit(module(lightning, spy=failing), data())
    if how != "interrupted":
        saved = torch.load(path, weights_only=True)
        saved["callbacks"] = {"AdminInit": {}} if how == "empty state" else None
        torch.save(saved, path)
    return path


@pytest.mark.faults
def test_a_checkpoint_from_before_any_profile_is_profiled(
    tmp_path: Path, lightning: ModuleType, cells: Callable[..., None]
) -> None:
    undisturbed, callback = module(lightning), AdminInit()
    trainer(lightning, callbacks=[callback]).fit(undisturbed, data())
    forms = ("interrupted", "empty state", "no callbacks", "plain")
    for how in forms:
        path = step_0(how, tmp_path / how, lightning)
        resumed, again = module(lightning), AdminInit()
        again.profile = callback.profile  # as of a run before, with the same callback
        with pytest.warns(UserWarning, match="at update 0, holds no.*profiles now") as warned:
            trainer(lightning, callbacks=[again]).fit(resumed, data(), ckpt_path=path)
        assert again.profile == callback.profile
        assert again.profile is not None
        assert first_omegas(resumed) == first_omegas(undisturbed)
    cells(
        "Faults",
        f"A checkpoint from before any profile, resumed by {lightning.__name__}",
        tried=len(forms),
        survived=len(forms),
        exit_code=0,
        message=next(str(w.message) for w in warned if "update 0" in str(w.message)),
    )


def test_omegas_that_were_set_before_the_first_update_are_kept_with_a_warning(
    tmp_path: Path,
) -> None:
    model = module()
    install_(model)
    for site in find_sites(model):
        assert site.omega is not None
        torch.nn.init.constant_(site.omega, 3.0)
    run = trainer(max_steps=0)
    run.fit(model, data())
    run.save_checkpoint(tmp_path / "set.ckpt")
    resumed, callback = module(), AdminInit(trainable=False, weight_decay=True)
    with pytest.warns(UserWarning, match="at update 0, holds no profile.*keeps them"):
        trainer(callbacks=[callback]).fit(resumed, data(), ckpt_path=tmp_path / "set.ckpt")
    assert first_omegas(resumed) == [3.0] * 6
    assert callback.profile is None


def test_a_trained_run_without_a_profile_goes_on_with_a_warning(tmp_path: Path) -> None:
    model = module()
    install_(model, trainable=False)
    run = trainer()
    run.fit(model, data())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    resumed = module()
    with pytest.warns(UserWarning, match="at update 4, holds no profile.*as in plain Post-LN"):
        trainer(callbacks=[AdminInit(trainable=False, weight_decay=True)], max_epochs=2).fit(
            resumed, data(), ckpt_path=tmp_path / "plain.ckpt"
        )
    assert first_omegas(resumed) == [1.0] * 6
