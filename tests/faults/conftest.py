"""Shared by the tests of faults."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _helpers.command_line import call
from _helpers.small_run import fit, write_recipe


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How often to try: the many times of `make faults`, or the few of the suite."""
    campaign = request.config.option.markexpr == "faults"
    return lambda many, few: many if campaign else few


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its data-bin, and what 8 steps of training left in `run`."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        write_recipe()
        done = call(*fit("short", "--trainer.max_steps", "8"))
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    """The test's own copy of it, in which the test runs."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a disk can only be mounted by root, on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
