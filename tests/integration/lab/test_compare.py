"""`admin-init compare`, from a recipe to a report."""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from _helpers.command_line import call
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from admin_init._utils.weight_averaging import average_checkpoints
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.run import train
from admin_init.translation.checkpoint import load_module
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.data.datamodule import TranslationDataModule

RECIPE: dict[str, Any] = {
    "title": "Tiny",
    "corpus": {"kind": "embedded", "train": 200, "valid": 30, "test": 10},
    "vocabulary_size": 300,
    "grid": {
        "residual": ["admin"],
        "depth": ["2-1"],
        "learning_rate": [5e-3, 6e-3, 1e30],
        "seed": [1],
    },
    "transformer": {"dim": 16, "ffn_dim": 32, "heads": 2, "dropout": 0.1},
    "optimization": {"warmup_steps": 10},
    "search": {"beam_size": 1, "max_len_a": 1.0, "max_len_b": 5},
    "max_steps": 60,
    "max_tokens": 300,
    "validate_every": 5,
    "bleu": True,
    "workers": 2,
    "threads": 1,
}
GOOD = "admin_2-1_lr0.005_seed1"
BROKEN = "admin_2-1_lr0.006_seed1"
DIVERGED = "admin_2-1_lr1e+30_seed1"
NOT_BROKEN = ["--grid.learning_rate", "[5e-3, 1e30]"]


def write_recipe(folder: Path) -> str:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "output": str(folder / "out")}))
    return str(recipe)


compare = functools.partial(call, "compare", "--config")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole grid has been run once; of one run there was a checkpoint, a damaged one."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "out" / BROKEN).mkdir(parents=True)
    (folder / "out" / BROKEN / "last.ckpt").write_bytes(b"PK\x03\x04 [/damaged]")
    done = compare(write_recipe(folder))
    assert done.code == 1
    (folder / "err.txt").write_text(done.err)
    return folder


def result(folder: Path, run: str) -> Any:
    return json.loads((folder / "out" / run / "result.json").read_text())


def losses_by_event(run: Path) -> list[list[int]]:
    """The steps whose training loss each of TensorBoard's files has, in the order of the files."""
    files = sorted(run.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    steps = []
    for path in files:
        events = EventAccumulator(str(path)).Reload()
        tags = events.Tags()["scalars"]
        steps.append([e.step for e in events.Scalars("train_loss")] if "train_loss" in tags else [])
    return steps


def test_a_run_that_trains(folder: Path) -> None:
    run = result(folder, GOOD)
    history = run["history"]
    assert len(history["train_loss"]) == len(history["grad_norm"]) == 60
    assert [entry["step"] for entry in history["validation"]] == list(range(5, 61, 5))
    assert run["val_nll"] == history["validation"][-1]["nll"] < history["validation"][0]["nll"]
    assert run["seconds"] > 0
    norms = history["layer_grad_norm"]
    assert [entry["step"] for entry in norms] == list(range(5, 61, 5))
    assert norms[0]["norms"]["encoder.layers.0.self_attn"] > 0
    # Sub-layers, embeddings and whatever else there is together are the whole.
    for entry in norms:
        whole = sum(norm**2 for norm in entry["norms"].values()) ** 0.5
        assert whole == pytest.approx(history["grad_norm"][entry["step"] - 1], rel=1e-5)
    assert isinstance(run["bleu"], float)
    assert "tok:13a" in run["bleu_signature"]
    assert run["grad_norm"] == pytest.approx(sorted(history["grad_norm"])[29], rel=0.2)
    last = torch.load(folder / "out" / GOOD / "last.ckpt", weights_only=True)
    assert last["global_step"] == 60
    profile = json.loads((folder / "out" / GOOD / "admin_profile.json").read_text())
    assert len(profile["sites"]) == 2 * 2 + 1 * 3


def test_a_log_follows_the_runs(folder: Path) -> None:
    text = (folder / "err.txt").read_text()
    for line in (
        r"preprocessing: 3 of 3 \(100%\), 0:\d\d:\d\d elapsed",
        f"{GOOD}: started",
        rf"{GOOD}: 60 of 60 \(100%\), 0:\d\d:\d\d elapsed",
        f"{GOOD}: (trained|failed), .*",
        re.escape(f"{DIVERGED}: failed, its validation NLL is nan"),
        f"{BROKEN}: stopped by an error: .*",
    ):
        assert re.search(rf"^[\d-]{{10}} [\d:]{{8}} {line}$", text, re.MULTILINE), line
    assert "\x1b" not in text


def test_a_run_that_diverges_has_failed_and_crashed_nothing(folder: Path) -> None:
    run = result(folder, DIVERGED)
    assert not run["trained"]
    assert "NLL is nan" in run["reason"]
    assert run["bleu"] == 0.0
    assert len(run["history"]["train_loss"]) < 60


def test_a_run_that_breaks_stops_no_other_and_is_reported(folder: Path) -> None:
    assert not (folder / "out" / BROKEN / "result.json").exists()
    html = (folder / "out" / "report.html").read_text()
    assert BROKEN in html
    assert "last.ckpt cannot be read as a checkpoint" in html
    rows = [json.loads(line) for line in (folder / "out" / "results.jsonl").open()]
    assert [row["run"] for row in rows] == [GOOD, DIVERGED]
    assert rows[1]["val_nll"] is None
    assert (folder / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_every_run_has_events(folder: Path) -> None:
    (steps,) = [s for s in losses_by_event(folder / "out" / GOOD) if s]
    assert steps[-1] > 50
    assert [s for s in losses_by_event(folder / "out" / DIVERGED) if s]


def test_repeated_it_trains_nothing_again(folder: Path) -> None:
    def stamps() -> dict[Path, int]:
        files = (folder / "out").glob("*/*")
        return {path: path.stat().st_mtime_ns for path in files if path.parent.name != "report"}

    before = stamps()
    again = compare(str(folder / "recipe.yaml"), *NOT_BROKEN)
    assert again.code == 0
    assert stamps() == before
    said = " ".join(again.out.split())
    assert "Admin at 2-1 layers, learning rate 0.005 failed in 1 of 1 seed; seed 1: " in said
    assert f"tensorboard --logdir {folder / 'out'}" in again.out
    # Other criteria judge the same runs anew.
    assert "25%" not in again.out
    stricter = ("--criteria.entropy_share", "0.25")
    judged = compare(str(folder / "recipe.yaml"), *NOT_BROKEN, *stricter)
    assert judged.code == 0
    assert "is not below 25% of" in " ".join(judged.out.split())
    assert stamps() == before


def test_a_changed_setting_is_refused(folder: Path) -> None:
    refused = compare(str(folder / "recipe.yaml"), "--max_steps", "61")
    assert refused.code == 2
    setting = f"{folder / 'out'} holds runs with other settings: `max_steps` was 60 and is now 61"
    assert setting in refused.err
    assert "Choose another `output`" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("transformer", {"dim": 15}, "must be divisible by `heads`"),
        ("transformer", {"residual": "post"}, "multiple values for keyword argument 'residual'"),
        ("transformer", {"width": 16}, "unexpected keyword argument 'width'"),
        ("optimization", {"schedule": "cosine"}, "`schedule` must be one of"),
        ("search", {"beam_size": 0}, "`beam_size` must be at least 1"),
        ("label_smoothing", 1.0, "`label_smoothing` must be at least 0 and below 1"),
        ("corpus", {"kind": "files", "folder": "nowhere"}, "has no file nowhere/train.en"),
        ("grid", {"depth": ["18"]}, "`depth` must be of the form `18-18`"),
        ("grid", {"residual": ["nope"]}, "`residual` must be one of"),
        ("grid", {"width": [15]}, "for post_18-18_lr0.001_d15_seed1: `dim` must be divisible"),
        ("share", "3/2", "`share` must be of the form `2/3`"),
        ("max_steps", None, "`max_steps` or `max_minutes` must be given"),
        ("workers", 0, "`workers` must be at least 1"),
    ],
)
def test_what_no_run_could_start_with(option: str, value: Any, message: str) -> None:
    recipe = Path("recipe.yaml")
    recipe.write_text(yaml.safe_dump({option: value, "output": "out"}))
    refused = compare(str(recipe))
    assert refused.code == 2
    assert refused.err.startswith("admin-init compare: ")
    assert message in refused.err
    assert "Traceback" not in refused.err
    # So that the same folder can be used once it is put right.
    assert not Path("out/comparison.json").exists()


def test_what_fairseq_does_not_have() -> None:
    recipe = Path("recipe.yaml")
    recipe.write_text("{output: out, fairseq: {}, grid: {residual: [post], branch_scale: [1, 4]}}")
    refused = compare(str(recipe))
    assert refused.code == 2
    assert "for post_18-18_lr0.001_branch4_seed1: fairseq's Transformer does not" in refused.err
    assert "`branch_scale` is 4.0. Leave out `fairseq` to train our Transformer." in refused.err
    assert not Path("out").exists()


def train_good(output: Path, **changed: Any) -> None:
    """Train a run here, without a process of its own."""
    settings: dict[str, Any] = {
        **RECIPE,
        "corpus": CorpusConfig(**RECIPE["corpus"]),
        "grid": Grid(**RECIPE["grid"]),
        "output": str(output),
    }
    comparison = Comparison(**settings | changed)
    train(comparison, comparison.variants()[0], entropy=4.0)


def test_a_run_that_was_killed_before_its_result_was_written(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out" / "data-bin", tmp_path / "out" / "data-bin")
    shutil.copytree(folder / "out" / GOOD, tmp_path / "out" / GOOD)
    (tmp_path / "out" / GOOD / "result.json").unlink()
    train_good(tmp_path / "out")
    again, before = result(tmp_path, GOOD), result(folder, GOOD)
    for name in ("run", "val_nll", "source_gain", "bleu", "grad_norm"):
        assert again[name] == before[name]
    assert again["history"]["train_loss"] == before["history"]["train_loss"]


def test_what_is_scored_is_the_average_of_the_last_validations(folder: Path) -> None:
    shutil.copytree(folder / "out" / "data-bin", folder / "averaged" / "data-bin")
    train_good(folder / "averaged", average=3)
    run = folder / "averaged" / GOOD
    snapshots = [run / f"snapshot-step={step}.ckpt" for step in (50, 55, 60)]
    module = load_module(average_checkpoints(snapshots))
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
    data = TranslationDataModule(folder / "averaged" / "data-bin", "en", "de", max_tokens=300)
    scores = trainer.test(module, data, verbose=False)
    scored = json.loads((run / "result.json").read_text())["bleu"]
    assert scored > 0
    assert scored == pytest.approx(scores[0]["test_bleu"], rel=1e-6)
    # The training itself is the one that nothing is averaged of.
    assert json.loads((run / "result.json").read_text())["val_nll"] == pytest.approx(
        result(folder, GOOD)["val_nll"], rel=1e-6
    )


def test_a_damaged_result_is_set_aside_and_its_run_taken_up_again(folder: Path) -> None:
    before, path = result(folder, GOOD), folder / "out" / GOOD / "result.json"
    path.write_text("")
    again = compare(str(folder / "recipe.yaml"), *NOT_BROKEN)
    assert again.code == 0
    fault = f"{path} cannot be used: it is empty."
    assert f"{fault} It was renamed to result.json.damaged-1" in again.err
    assert path.with_name("result.json.damaged-1").read_text() == ""
    differing = {key for key, value in result(folder, GOOD).items() if value != before[key]}
    assert differing == {"seconds", "checksum"}
