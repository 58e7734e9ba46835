"""Files that several write at once, that a kill interrupts, or that the power leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _helpers.power_cut import Disk
from torch import nn

from admin_init._utils.atomic_files import write_bytes, write_checked, write_json, write_text
from admin_init._utils.checkpoints import write_checkpoint, write_safetensors
from admin_init.admin_profile import AdminProfile, SiteProfile
from admin_init.callbacks.atomic_checkpoint_io import WholeCheckpointIO
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.download import fetch
from admin_init.translation.data.databin import IndexedDatasetBuilder
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.preparation.shards import TextPairs

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

CONTENTS = {"a": b"a" * 400_000, "b": b"b" * 700_000}

# As in two containers, where both have the number 1.
SAME_PID = """
import os, sys
from pathlib import Path
os.getpid = lambda: 1
from admin_init._utils.atomic_files import write_bytes, whole_file
"""
WRITE = """
wholes = {b"a" * 400_000, b"b" * 700_000}
mine = next(whole for whole in wholes if whole.startswith(sys.argv[1].encode()))
for _ in range(int(sys.argv[2])):
    write_bytes("x.bin", mine)
    assert Path("x.bin").read_bytes() in wholes
"""
DIE = """
import signal
with whole_file("x.bin") as file:
    file.write(b"half")
    file.flush()
    signal.raise_signal(signal.SIGKILL)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAME_PID + script, *arguments], stderr=subprocess.PIPE, text=True
    )


def test_processes_of_the_same_number_write_one_file(
    tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    number = tries(150, 20)
    writers = [start(WRITE, name, str(number)) for name in "ab"]
    for writer in writers:
        _, said = writer.communicate()
        assert writer.returncode == 0, said
    assert Path("x.bin").read_bytes() in CONTENTS.values()
    assert [path.name for path in Path().iterdir()] == ["x.bin"]
    cells(
        "Faults",
        "Two processes that share a pid write one file",
        tried=2 * number,
        survived=2 * number,
        exit_code=0,
        message="none; always one of the two, whole",
    )


def test_threads_write_one_file() -> None:
    def write(name: str) -> None:
        for _ in range(20):
            write_bytes("x.bin", CONTENTS[name])
            assert Path("x.bin").read_bytes() in CONTENTS.values()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, "abab"))
    assert [path.name for path in Path().iterdir()] == ["x.bin"]


def test_a_killed_writer_leaves_what_was_there_and_disturbs_nobody(
    tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    write_bytes("x.bin", b"older")
    number = tries(20, 2)
    for _ in range(number):
        writer = start(DIE)
        assert writer.wait() == -signal.SIGKILL
        assert Path("x.bin").read_bytes() == b"older"
        assert [path.name for path in Path().glob("[!.]*")] == ["x.bin"]
    write_bytes("x.bin", b"newer")
    assert Path("x.bin").read_bytes() == b"newer"
    cells(
        "Faults",
        "SIGKILL in the middle of a write, and a later writer of the same pid",
        tried=number,
        survived=number,
        exit_code=-signal.SIGKILL,
        message="none; what was there before is whole",
    )


def test_no_planted_link_is_followed(cells: Callable[..., None]) -> None:
    Path("victim").write_text("keep")
    planted = ["x.bin", ".x.bin.1.part", "x.bin.part", "x.bin.tmp"]
    for name in planted:
        Path(name).symlink_to("victim")
    for _ in range(2):
        writer = start(WRITE, "a", "1")
        assert writer.wait() == 0
    assert Path("victim").read_text() == "keep"
    assert not Path("x.bin").is_symlink()
    cells(
        "Faults",
        "A link to another file, planted where a file will be written",
        tried=len(planted),
        survived=len(planted),
        exit_code=0,
        message="none; the link is replaced, what it points to is untouched",
    )


def a_profile() -> AdminProfile:
    return AdminProfile(sites=(SiteProfile("a", "encoder", 1.0, 1.5, 3),))


def data_bin() -> None:
    with IndexedDatasetBuilder("disk/new/out", 10) as builder:
        builder.extend(np.array([4, 5, 2]), np.array([3]))


def download() -> None:
    fetch("http://127.0.0.1:1/out", "disk/new", mirror="mirror")


WRITERS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "text": (lambda: write_text("disk/new/out", "text"), ["out"]),
    "JSON": (lambda: write_json("disk/new/out", [1]), ["out"]),
    "a result": (lambda: write_checked("disk/new/out", {"nll": 1.0}), ["out"]),
    "a profile": (lambda: a_profile().save("disk/new/out"), ["out"]),
    "a checkpoint": (
        lambda: WholeCheckpointIO().save_checkpoint({"a": torch.ones(9)}, "disk/new/out"),
        ["out"],
    ),
    "weights alone": (lambda: write_safetensors(nn.Linear(2, 2), "disk/new/out"), ["out"]),
    "a data-bin": (data_bin, ["out.bin", "out.idx"]),
    "a dictionary": (
        lambda: Dictionary.from_counts({"a": 1}).save(Path("disk/new/out")),  # type: ignore[arg-type]
        ["out"],
    ),
    "a shard": (lambda: TextPairs([1], ["a"], ["b"]).save(Path("disk/new/out")), ["out"]),
    "a download": (download, ["checksums.json", "out"]),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_power_cut_leaves_a_file_whole_or_not_at_all(
    what: str, cells: Callable[..., None]
) -> None:
    for folder in ("disk", "mirror"):
        Path(folder).mkdir()
    Path("mirror/out").write_bytes(bytes(range(256)))
    write, names = WRITERS[what]
    disk = Disk(Path("disk").absolute(), "new")
    disk.watch(write)
    whole = {name: Path("disk/new", name).read_bytes() for name in names}
    for left in disk.moments:
        there = left or {}
        assert {name: there[name] for name in names if name in there}.items() <= whole.items()
    assert {name: disk.left.get(name) for name in names} == whole
    number = len(disk.moments)
    cells(
        "Faults",
        f"Power cut while {what} is written",
        tried=number,
        survived=number,
        exit_code="",
        message="none; all of it, or none",
    )


def test_a_power_cut_leaves_the_checkpoint_before_or_the_new_one() -> None:
    Path("disk").mkdir()
    for steps in (1, 2):
        before = Path("disk/last.ckpt").read_bytes() if steps > 1 else None
        disk = Disk(Path("disk").absolute(), "last.ckpt")
        disk.watch(lambda steps=steps: write_checkpoint({"step": steps}, "disk/last.ckpt"))  # type: ignore[misc]
        after = Path("disk/last.ckpt").read_bytes()
        assert all(left in (before, after) for left in disk.moments)
        assert disk.left == after


def test_a_power_cut_leaves_the_prepared_folder_before_or_the_new_one(
    cells: Callable[..., None],
) -> None:
    corpus = CorpusConfig(train=60, valid=5, test=5).open()
    Path("disk").mkdir()

    def files() -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in Path("disk/bin").iterdir()}

    prepare(corpus, "disk/bin", vocabulary_size=100)
    before = files()
    disk = Disk(Path("disk").absolute(), "bin")
    disk.watch(lambda: prepare(corpus, "disk/bin", vocabulary_size=90, overwrite=True))
    after = files()
    assert before != after
    assert all(left in (before, after) for left in disk.moments)
    assert disk.left == after
    number = len(disk.moments)
    cells(
        "Faults",
        "Power cut while `prepare` replaces a folder",
        tried=number,
        survived=number,
        exit_code="",
        message="none; the folder before, or the new one",
    )
