"""The plugin of fairseq where a run begins from a checkpoint, or a command does not train."""

import copy
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.fairseq_training import training
from torch import Tensor

import admin_init
import admin_init.fairseq
from admin_init._utils.checkpoints import load
from admin_init.fairseq import plugin

from fairseq import checkpoint_utils  # isort: skip


def omegas(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.endswith(".omega")}


def profiling(*_: object) -> None:
    raise AssertionError("the model is profiled again")


def test_generate_does_not_profile(
    first: dict[str, Any],
    data: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    path = first["saved"] / "checkpoint_last.pt"
    # Twice: an ensemble.
    fairseq("generate", data, "--path", f"{path}:{path}", "--cpu", "--beam", 2, "--max-len-b", 5)
    assert "Generate test with beam=2: BLEU4 =" in capfd.readouterr().out


@pytest.mark.parametrize("command", ["validate", "interactive"])
def test_other_commands_do_not_profile(
    first: dict[str, Any],
    data: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2\n"))
    path = first["saved"] / "checkpoint_last.pt"
    fairseq(command, data, "--path", path, "--cpu", "--task", "translation", "--batch-size", 1)
    assert {"validate": "valid on 'valid'", "interactive": "H-0"}[command] in capfd.readouterr().out


def test_a_resumed_run_does_not_profile(
    first: dict[str, Any],
    data: Path,
    tmp_path: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    shutil.copy(first["saved"] / "checkpoint_last.pt", tmp_path)
    fairseq(*training(data, tmp_path, "--max-update", 4))
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    assert saved["optimizer_history"][-1]["num_updates"] == 4


@pytest.mark.parametrize("option", ["restore-file", "finetune-from-model", "continue-once"])
def test_a_run_from_another_checkpoint_does_not_profile(
    first: dict[str, Any],
    data: Path,
    tmp_path: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    path = first["saved"] / "checkpoint_last.pt"
    fairseq(*training(data, tmp_path, "--max-update", 3, "--lr", 0, f"--{option}", path))
    weights = [
        omegas(checkpoint_utils.load_checkpoint_to_cpu(str(folder / "checkpoint_last.pt"))["model"])
        for folder in (first["saved"], tmp_path)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("option", ["restore-file", "continue-once"])
def test_a_run_from_a_checkpoint_that_is_not_there_profiles(
    first: dict[str, Any], data: Path, tmp_path: Path, fairseq: Callable[..., None], option: str
) -> None:
    # fairseq begins at random weights then.
    fairseq(*training(data, tmp_path, "--max-update", 1, "--lr", 0, f"--{option}", "gone.pt"))
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    for name, omega in omegas(first["model"].state_dict()).items():
        assert torch.equal(saved["model"][name], omega), name


@pytest.mark.parametrize("has_omegas", [False, True])
def test_a_checkpoint_from_before_any_profile_is_profiled(
    first: dict[str, Any],
    data: Path,
    tmp_path: Path,
    fairseq: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    has_omegas: bool,
) -> None:
    model = copy.deepcopy(first["model"])
    for site in admin_init.find_sites(model):
        site.uninstall_()
    with torch.no_grad():  # Other weights than a new model of that seed has.
        model.encoder.layers[0].fc2.weight.mul_(3)
    expected = admin_init.profile(
        model, [first["sample"]], forward=lambda model, batch: model(**batch["net_input"])
    )
    if has_omegas:
        admin_init.install_(model)
    saved = load(first["saved"] / "checkpoint_last.pt")
    saved |= {"model": model.state_dict(), "last_optimizer_state": None}
    saved["optimizer_history"][-1]["num_updates"] = 0
    torch.save(saved, tmp_path / "start.pt")
    begins = ("--restore-file", tmp_path / "start.pt", "--reset-dataloader", "--reset-meters")
    fairseq(*training(data, tmp_path, "--max-update", 1, "--lr", 0, *begins))
    written = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    found = admin_init.apply_(model, expected).state_dict()
    assert omegas(written["model"]).keys() == omegas(found).keys()
    for name, omega in omegas(found).items():
        assert torch.equal(written["model"][name], omega), name
    weight = "encoder.layers.0.fc2.weight"
    assert torch.equal(written["model"][weight], found[weight])
    assert "start.pt, of update 0, holds no profile" in caplog.text


@pytest.mark.parametrize("updates", [0, 2])
def test_a_trained_model_without_omegas_stays_as_it_is_with_a_warning(
    first: dict[str, Any],
    data: Path,
    tmp_path: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    updates: int,
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    saved = load(first["saved"] / "checkpoint_last.pt")
    for name in omegas(saved["model"]):
        del saved["model"][name]
    saved["optimizer_history"][-1]["num_updates"] = updates
    torch.save(saved, tmp_path / "plain.pt")
    fairseq(*training(data, tmp_path, "--max-update", 1, "--finetune-from-model", "plain.pt"))
    assert f"plain.pt, of update {updates}, holds no profile" in caplog.text
    assert "as in plain Post-LN" in caplog.text
