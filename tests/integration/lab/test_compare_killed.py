"""A comparison that is killed and repeated gives the results of an undisturbed one."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from _helpers.command_line import call
from _helpers.forked import start

from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.run import train
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

RECIPE: dict[str, Any] = {
    "corpus": {"kind": "embedded", "train": 200, "valid": 30, "test": 10},
    "vocabulary_size": 300,
    # The last of them soon computes NaN.
    "grid": {"residual": ["admin"], "depth": ["2-1"], "learning_rate": [5e-3, 1e30]},
    "transformer": {"dim": 16, "ffn_dim": 32, "heads": 2, "dropout": 0.1},
    "optimization": {"warmup_steps": 10},
    "search": {"beam_size": 1, "max_len_a": 1.0, "max_len_b": 5},
    # No multiple of the validations: the last one is made at the end.
    "max_steps": 38,
    "max_tokens": 300,
    "validate_every": 5,
    "average": 2,
    "bleu": True,
    "sensitivity": True,
    "threads": 1,
}
GOOD, DIVERGED = "admin_2-1_lr0.005_seed1", "admin_2-1_lr1e+30_seed1"


def write_recipe(folder: Path, **changed: Any) -> str:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "output": str(folder / "out"), **changed}))
    return str(recipe)


def figures(folder: Path) -> dict[str, str]:
    """Everything that a comparison found out, but for the time it took; as text: NaN is NaN."""
    runs = {}
    for path in sorted(folder.glob("out/*/result.json")):
        run = json.loads(path.read_text())
        # What is said of the figures is in results.jsonl, said anew.
        runs[path.parent.name] = json.dumps({k: run[k] for k in run if k not in NO_FIGURES})
    return {"results.jsonl": (folder / "out" / "results.jsonl").read_text(), **runs}


NO_FIGURES = ("seconds", "trained", "reason", "checksum")


def undisturbed(folder: Path) -> dict[str, str]:
    """What comes of the comparison if all of it is done in one process, this one."""
    recipe = write_recipe(folder)
    settings: dict[str, Any] = yaml.safe_load(Path(recipe).read_text())
    settings |= {"corpus": CorpusConfig(**settings["corpus"]), "grid": Grid(**settings["grid"])}
    comparison = Comparison(**settings)
    prepare(comparison.corpus.open(), folder / "out" / "data-bin", vocabulary_size=300)
    for variant in comparison.variants():
        train(comparison, variant, entropy=4.0)
    assert call("compare", "--config", recipe).code == 0
    return figures(folder)


def kill_when(
    due: Callable[[], bool],
    recipe: str,
    workers: int = 1,
    number: signal.Signals = signal.SIGKILL,
    worker: bool = False,
) -> str | None:
    """Start a comparison and send a signal when it is due; None where it was done before.

    Nobody but the command itself, or one worker, gets the signal, and nobody may be left.

    Returns:
        What it said.
    """
    command = ("compare", "--config", recipe, "--workers", str(workers))
    process, output = start(*command, first=os.setsid)
    while not due():
        if not process.is_alive():
            assert process.exitcode == 0
            return None
        time.sleep(0.005)
    # Or a run could come to its end before the signal is sent.
    os.killpg(process.pid, signal.SIGSTOP)
    children = psutil.Process(process.pid).children(recursive=True)
    if worker:
        [of_server] = [child for child in children if child.ppid() != process.pid]
        of_server.send_signal(number)
    else:
        os.kill(process.pid, number)
    os.killpg(process.pid, signal.SIGCONT)
    process.join()
    if worker:
        assert process.exitcode == 1
    else:
        assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number)
    psutil.wait_procs(children)  # for ever, if one is left
    return output.read_text()


def steps(run: Path) -> int:
    return int(torch.load(run / "last.ckpt", weights_only=True)["global_step"])


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_killed_and_repeated_on_two_processes(tmp_path: Path) -> None:
    killed = new(tmp_path / "killed")
    recipe, run = write_recipe(killed), killed / "out" / GOOD
    said = kill_when((run / "last.ckpt").exists, recipe, number=signal.SIGTERM)
    assert said is not None
    assert said.splitlines()[-1] == (
        "admin-init compare: terminated. Finished work is kept. To continue: "
        f"admin-init compare --config {recipe} --workers 1"
    )
    assert not (run / "result.json").exists()
    reached = steps(run)
    assert 0 < reached < 38
    said = kill_when(lambda: steps(run) > reached, recipe)
    assert said is not None
    assert "Traceback" not in said
    repeated = call("compare", "--config", recipe, "--workers", "2")
    assert repeated.code == 0
    expected = undisturbed(new(tmp_path / "whole"))
    assert figures(killed) == expected
    assert expected.keys() == {"results.jsonl", GOOD, DIVERGED}
    diverged = json.loads(expected[DIVERGED])
    assert len(diverged["history"]["train_loss"]) < 38


def test_the_death_of_a_worker_is_named_and_costs_no_other_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, max_steps=300, validate_every=20, bleu=False)
    run = tmp_path / "out" / GOOD
    said = kill_when((run / "last.ckpt").exists, recipe, worker=True)
    assert said is not None
    line = next(line for line in said.splitlines() if "stopped by an error" in line)
    assert f"{GOOD} was stopped by an error: The worker process" in said
    assert "was ended by SIGKILL, perhaps because memory ran out. Repeat the command" in line
    assert "Traceback" not in said
    assert (tmp_path / "out" / DIVERGED / "result.json").exists()
    assert not (run / "result.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    styles = {"grid": {**RECIPE["grid"], "residual": ["post", "admin"]}}
    whole = new(tmp_path / "whole")
    began = time.monotonic()
    assert call("compare", "--config", write_recipe(whole, **styles), "--workers", "1").code == 0
    expected, whole_time = figures(whole), time.monotonic() - began
    moments = random.Random(1)
    kills = rounds = 0
    while kills < 10:
        folder = new(tmp_path / f"killed-{rounds}")
        rounds += 1
        recipe = write_recipe(folder, **styles)
        done = False
        while not done and kills < 10:
            due = time.monotonic() + moments.uniform(0, whole_time / 2)
            done = kill_when(lambda due=due: time.monotonic() > due, recipe, 2) is None  # type: ignore[misc]
            kills += not done
        assert call("compare", "--config", recipe, "--workers", "2").code == 0
        assert figures(folder) == expected
