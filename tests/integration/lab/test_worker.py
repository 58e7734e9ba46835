"""A worker process of a comparison does not outlive it."""

import os
import time
from pathlib import Path

import psutil
from _helpers.forked import SERVER

from admin_init._utils.processes import Processes
from admin_init.lab.comparison.run import enter_worker


def parent(found: Path) -> None:
    """Start a worker, write its number, and wait for it."""
    with Processes(1, enter_worker, (1,)) as processes:
        number = processes.submit(os.getpid).result()
        found.with_suffix(".part").write_text(str(number))
        found.with_suffix(".part").rename(found)
        processes.submit(time.sleep, 600).result()


def test_a_worker_ends_with_its_killed_parent(tmp_path: Path) -> None:
    found = tmp_path / "worker"
    process = SERVER.Process(target=parent, args=(found,))
    process.start()
    while not found.exists():
        assert process.is_alive()
        time.sleep(0.01)
    worker = psutil.Process(int(found.read_text()))
    assert worker.is_running()
    process.kill()
    _, alive = psutil.wait_procs([worker], timeout=60)
    assert not alive, "the worker outlived its parent"
