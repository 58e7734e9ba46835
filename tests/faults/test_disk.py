"""A disk that is full, or that must not be written: nothing is lost, and nothing half written."""

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _helpers.command_line import Done, call
from _helpers.small_run import LAST_STEP, fit, losses, write_recipe

from admin_init._utils.checkpoints import load
from admin_init.admin_profile import AdminProfile

pytestmark = pytest.mark.faults

PREPARE = ["prepare", "--corpus.train", "500", "--corpus.valid", "9", "--corpus.test", "9"]
PREPARE += ["--vocabulary_size", "300", "--destination"]


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes of a disk free."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))
    return ballast


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def contents(disk: Path) -> dict[str, bytes]:
    """Every file that people see."""
    found = (path.relative_to(disk) for path in disk.rglob("*") if path.is_file())
    return {
        str(path): (disk / path).read_bytes()
        for path in found
        if not any(part.startswith(".") for part in path.parts)
    }


def short(done: Done) -> str:
    """The message, which is one line that names a file, without what differs in every test."""
    lines = done.err.strip().splitlines()
    assert done.code == 2
    assert "Traceback" not in done.err
    return re.sub(r"\.\w+\.part", ".RANDOM.part", lines[-1].replace(f"{Path.cwd()}/", ""))


def test_a_run_on_a_full_disk_keeps_its_last_checkpoint(
    here: Path, disk: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    shutil.rmtree("run")
    write_recipe(folder="disk/run")
    assert call(*fit("whole", last="disk/run/last.ckpt")).code == 0
    expected = losses("whole", "disk/run")
    size = Path("disk/run/last.ckpt").stat().st_size
    moments, wanted = random.Random(3), tries(8, 1)
    for _ in range(wanted):
        shutil.rmtree("disk/run")
        begun = fit("begun", "--trainer.max_steps", "8", last="disk/run/last.ckpt")
        assert call(*begun).code == 0
        # Some space for the losses.
        ballast = fill(disk, moments.randrange(40_000, size - 5000))
        before = Path("disk/run/last.ckpt").read_bytes()
        done = call(*fit("full", last="disk/run/last.ckpt"))
        message = short(done)
        assert "No space left on device" in message
        assert "run/last.ckpt" in message
        assert Path("disk/run/last.ckpt").read_bytes() == before
        ballast.unlink()
        assert call(*fit("resumed", last="disk/run/last.ckpt")).code == 0
        resumed = losses("resumed", "disk/run")
        assert resumed == {step: loss for step, loss in expected.items() if step >= 8}
        assert load("disk/run/last.ckpt")["global_step"] == LAST_STEP
    cells(
        "Faults",
        "Disk full while `fit` saves a checkpoint",
        tried=wanted,
        survived=wanted,
        exit_code=2,
        message=message,
    )


def test_a_preparation_on_a_full_disk_goes_on_when_there_is_space(
    disk: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    assert call(*PREPARE, "whole").code == 0
    expected = contents(Path("whole"))
    moments, wanted = random.Random(4), tries(20, 1)
    for _ in range(wanted):
        ballast = fill(disk, moments.randrange(sum(map(len, expected.values()))))
        message = short(call(*PREPARE, "disk/out"))
        assert "No space left on device" in message
        assert "disk/.out.scratch" in message
        assert set(contents(disk)) == {"ballast"}
        ballast.unlink()
        assert call(*PREPARE, "disk/out").code == 0
        assert contents(disk / "out") == expected
        shutil.rmtree("disk/out")
    cells(
        "Faults",
        "Disk full while `prepare` writes",
        tried=wanted,
        survived=wanted,
        exit_code=2,
        message=message,
    )


def writing(command: str) -> Callable[[], Done]:
    """What writes a file `disk/out`."""
    last = "run/last.ckpt"
    arguments: dict[str, list[str]] = {
        "fold": ["fold", last, "disk/out"],
        "average": ["average", "--checkpoints", last, last, "--output", "disk/out"],
        "convert": ["convert", last, "disk/out"],
        "profile": ["profile", "--recipe", "fit.yaml", "--output", "disk/out"],
        "prepare": [*PREPARE, "disk/out"],
        "fit": ["fit", "--config", "fit.yaml"],
    }
    return lambda: call(*arguments[command])


@pytest.mark.parametrize("command", ["fold", "average", "convert", "profile"])
def test_a_full_disk_gets_no_half_of_a_file(
    command: str, here: Path, disk: Path, cells: Callable[..., None]
) -> None:
    Path("disk/out").write_text("older")
    fill(disk, 0)
    before = contents(disk)
    message = short(writing(command)())
    assert "No space left on device" in message
    assert "disk/out" in message
    assert contents(disk) == before
    assert {path.name for path in disk.iterdir()} == {"out", "ballast"}
    cells(
        "Faults",
        f"Disk full while `{command}` writes",
        tried=1,
        survived=1,
        exit_code=2,
        message=message,
    )


@pytest.mark.parametrize("command", ["fit", "prepare", "fold", "average", "convert", "profile"])
def test_a_folder_that_cannot_be_written_is_named(
    command: str, here: Path, disk: Path, cells: Callable[..., None]
) -> None:
    write_recipe(folder="disk")
    make_read_only(disk)
    message = short(writing(command)())
    assert "Read-only file system" in message
    assert "disk/" in message
    cells(
        "Faults",
        f"Read-only folder, `{command}`",
        tried=1,
        survived=1,
        exit_code=2,
        message=message,
    )


def test_a_profile_is_saved_whole_or_not_at_all(here: Path, disk: Path) -> None:
    profile = AdminProfile.load("run/admin_profile.json")
    profile.save("disk/profile.json")
    fill(disk, 0)
    other: Any = AdminProfile(sites=profile.sites * 1, batches=9)
    with pytest.raises(OSError, match=r"No space left on device: 'disk/profile\.json'"):
        other.save("disk/profile.json")
    assert AdminProfile.load("disk/profile.json") == profile
