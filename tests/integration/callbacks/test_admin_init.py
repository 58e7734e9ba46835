"""AdminInit in real Trainers."""

from __future__ import annotations

import csv
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
from torch import Tensor, nn

from admin_init import AdminInit, AdminProfile, ProfileError, find_sites, install_, profile


def same(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_profiles_once_on_the_first_batch_and_loses_none(lightning: ModuleType) -> None:
    seen: list[tuple[int, Tensor, bool]] = []

    def spy(self: Any, batch: list[Tensor], batch_idx: int) -> None:
        seen.append((batch_idx, batch[0].clone(), torch.is_grad_enabled()))

    callback = AdminInit()
    model = module(lightning, spy=spy)
    trainer(lightning, callbacks=[callback], max_epochs=2).fit(model, data())
    assert [index for index, _, _ in seen] == [0, 0, 1, 2, 3, 0, 1, 2, 3]
    assert [grad for _, _, grad in seen] == [False] + [True] * 8
    assert torch.equal(seen[0][1], seen[1][1])
    assert model.steps == len(model.outputs) == 8
    assert callback.profile is not None
    assert [site.name for site in callback.profile.sites] == [s.name for s in find_sites(model)]
    assert all(site.omega > 1 for site in callback.profile.sites[1:])


def test_omegas_are_those_of_profile_on_the_first_batch() -> None:
    def without_dropout() -> Any:
        pl.seed_everything(2, verbose=False)
        return module(model=encoder(dropout=0.0))

    expected = profile(without_dropout(), [next(iter(data()))], forward=lambda m, b: m(b[0]))
    callback = AdminInit()
    trainer(callbacks=[callback], max_steps=1).fit(without_dropout(), data())
    assert callback.profile is not None
    ours, theirs = ([site.omega for site in p.sites] for p in (callback.profile, expected))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert callback.profile.signature.startswith("rule:reference|batches:1|")


def test_training_after_it_is_bit_identical_to_training_from_a_file(
    lightning: ModuleType, tmp_path: Path
) -> None:
    first, second = AdminInit(), AdminInit(profile=tmp_path / "profile.json")
    one, two = module(lightning), None
    trainer(lightning, callbacks=[first]).fit(one, data())
    assert first.profile is not None
    first.profile.save(tmp_path / "profile.json")
    two = module(lightning)
    trainer(lightning, callbacks=[second]).fit(two, data())
    assert torch.equal(torch.stack(one.outputs), torch.stack(two.outputs))
    assert same(one, two)
    assert second.profile == first.profile


def rows(logger: Any) -> list[dict[str, str]]:
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_pass_leaves_no_trace(tmp_path: Path) -> None:
    states: list[tuple[Any, ...]] = []

    class Snapshot(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            omega = [k for k in pl_module.state_dict() if k.endswith("omega")]
            state = {k: v.clone() for k, v in pl_module.state_dict().items() if k not in omega}
            states.append(
                (
                    state,
                    torch.get_rng_state(),
                    pl_module.mean_loss.metric_state,
                    pl_module.mean_loss.update_count,
                    pl_module.steps,
                    list(pl_module.outputs),
                    dict(trainer.callback_metrics),
                    [m.training for m in pl_module.modules()],
                    [
                        len(m._forward_hooks) + len(m._forward_pre_hooks)
                        for m in pl_module.modules()
                    ],
                    sorted(vars(pl_module)),
                    trainer.loggers,
                )
            )

    model = module()
    logger = pl.loggers.CSVLogger(tmp_path)
    callbacks = [Snapshot(), AdminInit(), Snapshot()]
    trainer(callbacks=callbacks, max_steps=1, logger=logger, log_every_n_steps=1).fit(model, data())
    (state, rng, *rest), (state_after, rng_after, *rest_after) = states
    assert all(torch.equal(state[key], state_after[key]) for key in state)
    assert torch.equal(rng, rng_after)
    assert rest == rest_after
    # One line for the one real step, beside the omegas that AdminInit itself logs.
    assert [row["direct"] for row in rows(logger) if row["direct"]] == [
        str(float(model.outputs[0]))
    ]


@pytest.mark.parametrize("weight_decay", [False, True])
def test_omega_is_optimized_and_decays_only_if_asked(weight_decay: bool) -> None:
    model = module()
    decay: dict[int, float] = {}

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        decay.update(
            (id(p), g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
        )

    class Note(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
            trainer.optimizers[0].register_step_pre_hook(note)

    run = trainer(callbacks=[AdminInit(weight_decay=weight_decay), Note()], max_steps=2)
    run.fit(model, data())
    sites = find_sites(model)
    assert [decay[id(site.omega)] for site in sites] == [0.1 if weight_decay else 0.0] * len(sites)
    assert {decay[id(p)] for n, p in model.named_parameters() if "omega" not in n} == {0.1}
    # What the module wrote is what it finds.
    (group,) = run.optimizers[0].param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    trained = [(site.omega != site.omega[0]).any() for site in sites if site.omega is not None]
    assert not trained[0]
    assert all(trained[1:])


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


def test_omega_can_be_kept_constant() -> None:
    model, callback = module(), AdminInit(trainable=False)
    trainer(callbacks=[callback]).fit(model, data())
    assert callback.profile is not None
    expected = [torch.full((16,), site.omega) for site in callback.profile.sites]
    assert all(map(torch.equal, omegas(model), expected))


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
    with pytest.raises(ProfileError, match="2 omegas that this model has no place for"):
        trainer(callbacks=[AdminInit()]).validate(
            shallow, data(), ckpt_path=tmp_path / "deep.ckpt", verbose=False
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"fast_dev_run": True},
        {"overfit_batches": 1},
        {"accumulate_grad_batches": 4},
        {"logger": False},
        {"gradient_clip_val": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_trainer_settings(settings: dict[str, Any]) -> None:
    passes: list[bool] = []
    model = module(spy=lambda *args: passes.append(torch.is_grad_enabled()))
    callback = AdminInit()
    trainer(callbacks=[callback], **settings).fit(model, data())
    assert callback.profile is not None
    assert passes.count(False) == 1
    assert passes[0] is False


def test_a_step_that_changes_its_batch_trains_on_the_original() -> None:
    seen: list[float] = []

    def spy(self: Any, batch: list[Tensor], batch_idx: int) -> None:
        seen.append(float(batch[0].sum()))
        batch[0].mul_(2)

    trainer(callbacks=[AdminInit()], max_steps=1).fit(module(spy=spy), data())
    assert seen[0] == seen[1] != 0


def test_everything_is_restored_after_an_exception_in_the_users_code(tmp_path: Path) -> None:
    def spy(self: Any, *args: Any) -> None:
        self.outputs.append(torch.zeros(()))
        self.norm.running_mean.fill_(7)
        torch.rand(1)
        raise RuntimeError("the user's own error")

    model = module(spy=spy)
    logger = pl.loggers.CSVLogger(tmp_path)
    run = trainer(callbacks=[AdminInit()], logger=logger)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    attributes = set(vars(model))
    with pytest.raises(RuntimeError, match="the user's own error"):
        run.fit(model, data())
    assert run.loggers == [logger]
    assert set(vars(model)) - attributes <= {"_hparams"}
    assert model.outputs == []
    assert all(torch.equal(buffers[name], value) for name, value in model.named_buffers())
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())
    assert first_omegas(model) == [1.0] * 6


def test_the_profile_is_logged_and_written_beside_the_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = AdminInit()
    board = pl.loggers.TensorBoardLogger(tmp_path)
    table = pl.loggers.CSVLogger(tmp_path / "csv")
    model = module()
    trainer(callbacks=[callback], logger=[board, table], enable_checkpointing=True).fit(
        model, data()
    )
    assert callback.profile is not None
    (saved,) = tmp_path.rglob("admin_profile.json")
    assert saved.parent.name == "checkpoints"
    assert AdminProfile.load(saved) == callback.profile
    events = EventAccumulator(str(board.log_dir)).Reload()
    curve = [event.value for event in events.Scalars("admin/omega/model")]
    assert curve == pytest.approx([site.omega for site in callback.profile.sites])
    assert "admin/dependency" in events.Tags()["images"]
    assert "admin/json/text_summary" in events.Tags()["tensors"]
    names = {f"admin/omega/{site.name}" for site in callback.profile.sites}
    assert names <= rows(table)[0].keys()


def test_a_trainer_and_a_step_of_the_users_own(lightning: ModuleType) -> None:
    class OwnTrainer(lightning.Trainer):  # type: ignore[name-defined, misc]
        pass

    model, callback = module(lightning), AdminInit()
    step = type(model).training_step

    def variadic(self: Any, *args: Any) -> Tensor:
        loss: Tensor = step(self, *args)
        return loss

    type(model).training_step = variadic
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    OwnTrainer(accelerator="cpu", max_steps=1, callbacks=[callback], **settings).fit(model, data())
    assert callback.profile is not None


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


def test_omegas_that_were_there_before_can_be_kept_constant() -> None:
    model, callback = module(), AdminInit(trainable=False)
    install_(model)
    trainer(callbacks=[callback], max_steps=2).fit(model, data())
    assert callback.profile is not None
    assert first_omegas(model) == pytest.approx([site.omega for site in callback.profile.sites])


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
