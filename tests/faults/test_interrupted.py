"""A training run that SIGINT or SIGTERM ends goes on as if nobody had disturbed it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from _helpers.command_line import Done, call
from _helpers.forked import run
from _helpers.small_run import LAST, LAST_STEP, fit, losses, weights, write_recipe

from admin_init._utils.checkpoints import load
from admin_init.translation.module import TranslationModule

INTERRUPTED = Path("run/interrupted.ckpt")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the folders of undisturbed runs, by the options of their trainers."""
    made: dict[str, Path] = {}

    def run(**trainer: Any) -> Path:
        key = repr(trainer)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("undisturbed")
            with pytest.MonkeyPatch.context() as patched:
                patched.chdir(made[key])
                write_recipe(**trainer)
                assert call(*fit("whole")).code == 0
        return made[key]

    return run


def send_at(count: int, method: str, monkeypatch: pytest.MonkeyPatch, *signals: int) -> None:
    """Have the process receive signals in the call of that number of a method of the module."""
    calls = 0
    original = getattr(TranslationModule, method)

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            for number in signals:
                os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(TranslationModule, method, counted)


def go_on(done: Done) -> Done:
    """Run the command that an interrupted one has named."""
    program, *arguments = shlex.split(done.err.strip().rpartition(": ")[2])
    assert program == "admin-init"
    assert arguments[-2:] == ["--ckpt_path", str(INTERRUPTED)]
    return call(*arguments)


@pytest.mark.parametrize(
    ("method", "at", "number", "trainer"),
    [
        ("training_step", 1, signal.SIGINT, {}),  # which the profile calls
        ("training_step", 12, signal.SIGINT, {}),
        ("training_step", 13, signal.SIGTERM, {}),  # a validation follows
        ("validation_step", 2, signal.SIGINT, {}),
        ("training_step", 12, signal.SIGINT, {"accumulate_grad_batches": 4}),
        ("training_step", 17, signal.SIGTERM, {"val_check_interval": 1.0}),  # an epoch's last
    ],
)
def test_an_interrupted_run_resumes_bit_by_bit(
    method: str,
    at: int,
    number: signal.Signals,
    trainer: dict[str, Any],
    undisturbed: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = undisturbed(**trainer)
    shutil.copytree(whole / "bin", "bin")
    write_recipe(**trainer)
    with monkeypatch.context() as patched:
        send_at(at, method, patched, number)
        done = call(*fit("first"))
    assert done.code == 128 + number, done.err
    word = "interrupted" if number == signal.SIGINT else "terminated"
    ended = done.err.strip().splitlines()[-1]
    saved = load(INTERRUPTED)
    step = saved["global_step"]
    assert f"admin-init fit: {word}; a checkpoint" in done.err
    assert f"admin-init fit: {word} after update {step}. " in ended
    assert saved["callbacks"]["AdminInit"]["profile"]["sites"][1]["omega"] > 1
    assert 0 < step < LAST_STEP

    shutil.rmtree("run/logs")
    resumed = go_on(done)
    assert resumed.code == 0, resumed.err
    expected = losses("whole", str(whole / "run"))
    assert losses("first") == {s: loss for s, loss in expected.items() if s >= step}
    assert weights(LAST) == weights(whole / LAST)
    files = [{path.name for path in (folder / "run").iterdir()} for folder in (whole, Path())]
    assert files[0] == files[1]


def interrupt_the_second(rank: int) -> None:
    if rank == 1:
        send_at(12, "training_step", pytest.MonkeyPatch(), signal.SIGINT)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_ends_both_where_they_resume() -> None:
    write_recipe(devices=2, strategy="ddp")
    run("--help")  # which the server imports everything for
    assert run(*fit("whole"), ranks=2).code == 0
    shutil.move("run", "undisturbed")
    ended = run(*fit("first"), ranks=2, first=interrupt_the_second)
    assert ended.code == 128 + signal.SIGINT, ended.text
    assert ended.text.count("admin-init fit: ") == 1
    step = load(INTERRUPTED)["global_step"]
    assert f"admin-init fit: interrupted after update {step}. " in ended.text
    shutil.rmtree("run/logs")
    resumed = run(*fit("first", last=str(INTERRUPTED)), ranks=2)
    assert resumed.code == 0, resumed.text
    expected = losses("whole", "undisturbed")
    assert losses("first") == {s: loss for s, loss in expected.items() if s >= step}
    assert weights(LAST) == weights(Path("undisturbed/last.ckpt"))


def test_the_death_of_a_loading_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe()

    calls = 0
    others = set(psutil.Process().children(recursive=True))
    training_step = TranslationModule.training_step

    def kill_them(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            for child in set(psutil.Process().children(recursive=True)) - others:
                child.kill()
        return training_step(self, *arguments)

    monkeypatch.setattr(TranslationModule, "training_step", kill_them)
    done = call(*fit("first"), "--data.num_workers", "1")
    assert done.code == 2
    assert re.search(r"A DataLoader worker \(pid.*Repeat the command; `--ckpt_path", done.err)
