import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from admin_init.errors import AdminInitError
from admin_init.translation.processes import spread


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def fail(number: int) -> None:
    raise KeyError(number)


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_and_few_are_waiting(workers: int) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 31):
            taken = number
            yield number

    done, most = [], 0
    for result in spread(square, tasks(), workers):
        done.append(result)
        most = max(most, taken - len(done))
    assert sorted(value for value, _ in done) == [i**2 for i in range(1, 31)]
    assert most <= workers
    assert ({process for _, process in done} == {os.getpid()}) == (workers == 1)


def test_an_error_of_a_worker_ends_it_all() -> None:
    with pytest.raises(KeyError, match="1"):
        list(spread(fail, iter([1]), 2))


def test_a_worker_that_the_system_ends_is_an_error_that_says_so() -> None:
    with pytest.raises(AdminInitError, match="fewer workers"):
        list(spread(die, range(9), 2))


PARENT = """
import os, time
from admin_init.translation.processes import spread

def sleep(_):
    with open("worker", "w") as file:
        file.write(str(os.getpid()))
    os.replace("worker", "pid")
    time.sleep(600)

if __name__ == "__main__":
    list(spread(sleep, [1], 2))
"""


def test_a_worker_ends_with_its_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path) as parent:
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker = psutil.Process(int((tmp_path / "pid").read_text()))
        parent.kill()
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)
