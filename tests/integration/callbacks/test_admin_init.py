"""AdminInit in real Trainers."""

from __future__ import annotations

import csv
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
)
from torch import Tensor, nn

from admin_init import AdminInit, AdminProfile, find_sites, install_, profile


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


def test_the_share_rule_repeats_the_pass_on_the_same_batch_and_dropout() -> None:
    seen: list[tuple[Tensor, bool]] = []

    def spy(self: Any, batch: list[Tensor], batch_idx: int) -> None:
        seen.append((batch[0].clone(), torch.is_grad_enabled()))

    callback = AdminInit(rule="share", share=0.75)
    model = module(spy=spy)
    step = type(model).training_step

    def use_up(self: Any, batch: list[Tensor], batch_idx: int) -> Any:
        loss = step(self, batch, batch_idx)
        if not torch.is_grad_enabled():
            batch[0].zero_()
        return loss

    type(model).training_step = use_up
    trainer(callbacks=[callback], max_steps=2).fit(model, data())
    assert callback.profile is not None
    passes = callback.profile.passes
    assert [grad for _, grad in seen] == [False] * passes + [True] * 2
    assert passes > 2
    assert all(torch.equal(batch, seen[0][0]) for batch, _ in seen[: passes + 1])
    first = callback.profile.sites[0]
    branches = sum(site.variance for site in callback.profile.sites)
    assert first.omega**2 * first.shortcut_variance == pytest.approx(3 * branches, rel=1e-5)
    (site,) = [site for site in find_sites(model) if site.previous is None]
    assert site.omega is not None
    assert not site.omega.requires_grad
    torch.testing.assert_close(site.omega, torch.full_like(site.omega, first.omega))


def test_a_share_for_another_rule_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"`share` belongs to `rule=\"share\"`"):
        AdminInit(share=0.5)


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
    done = trainer(
        callbacks=[snapshot := Snapshot(), AdminInit()],
        max_steps=1,
        logger=logger,
        log_every_n_steps=1,
    )
    # Lightning calls the strategy's hook last, after the module's, which is profiled in.
    done.strategy.on_train_batch_start = lambda *_: snapshot.on_train_batch_start(done, model)
    done.fit(model, data())
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


def test_omega_can_be_kept_constant() -> None:
    model, callback = module(), AdminInit(trainable=False)
    trainer(callbacks=[callback]).fit(model, data())
    assert callback.profile is not None
    expected = [torch.full((16,), site.omega) for site in callback.profile.sites]
    assert all(map(torch.equal, omegas(model), expected))


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


def test_omegas_that_were_there_before_can_be_kept_constant() -> None:
    model, callback = module(), AdminInit(trainable=False)
    install_(model)
    trainer(callbacks=[callback], max_steps=2).fit(model, data())
    assert callback.profile is not None
    assert first_omegas(model) == pytest.approx([site.omega for site in callback.profile.sites])
