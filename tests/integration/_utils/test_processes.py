import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing import popen_forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from admin_init._utils.processes import Processes, imap_unordered, report
from admin_init.errors import AdminInitError


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
    for result in imap_unordered(square, tasks(), workers):
        done.append(result)
        most = max(most, taken - len(done))
    assert sorted(value for value, _ in done) == [i**2 for i in range(1, 31)]
    assert most <= workers
    assert ({process for _, process in done} == {os.getpid()}) == (workers == 1)


def test_an_error_of_a_worker_ends_it_all() -> None:
    with pytest.raises(KeyError, match="1"):
        list(imap_unordered(fail, iter([1]), 2))


def test_a_worker_that_the_system_ends_is_an_error_that_says_so() -> None:
    with pytest.raises(AdminInitError, match=r"worker process \d+ was ended by SIGKILL.* fewer"):
        list(imap_unordered(die, range(9), 2))


def signalled(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(600)


def as_lightning(number: int) -> None:
    def answer(*_: object) -> None:
        raise SystemExit

    signal.signal(number, answer)
    signalled(number)


def told(number: int) -> int:
    report(number)
    return os.getpid()


def pair(number: int) -> object:
    return lambda: number


def nothing() -> None:
    pass


def test_a_process_dies_alone_and_is_named() -> None:
    with Processes(2, nothing, ()) as processes:
        ended = processes.submit(signalled, signal.SIGTERM)
        answered = processes.submit(as_lightning, signal.SIGTERM)
        over = processes.submit(os._exit, 3)
        alive = processes.submit(square, 3)
        for dead in (ended, answered):
            with pytest.raises(AdminInitError, match=r"process \d+ was ended by SIGTERM\. Repeat"):
                dead.result()
        with pytest.raises(AdminInitError, match="over, with code 3"):
            over.result()
        assert alive.result()[0] == 9


def test_every_death_is_named_while_other_processes_start() -> None:
    with Processes(8, int, (), fresh=True) as processes:
        ended = [processes.submit(os._exit, 3) for _ in range(32)]
        assert all("over, with code 3." in str(future.exception()) for future in ended)


def test_a_process_is_kept_or_fresh_and_reports() -> None:
    for fresh, expected in ((False, 1), (True, 3)):
        got: list[int] = []
        with Processes(1, nothing, (), fresh=fresh, on_report=got.append) as processes:
            pids = list(processes.map(told, range(3)))
        assert len(set(pids)) == expected
        assert got == [0, 1, 2]


def test_what_all_processes_need_is_imported_before_they_start() -> None:
    code = """
import sys
from admin_init._utils.processes import Processes

with Processes(1, int, (), fresh=True, preload=("colorsys", "this_is_no_module")) as processes:
    print(processes.submit(eval, "'colorsys' in __import__('sys').modules").result())
print("colorsys" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_an_error_shows_where_it_came_from_and_what_cannot_be_sent_is_one() -> None:
    with Processes(1, nothing, ()) as processes:
        with pytest.raises(KeyError) as raised:
            processes.submit(fail, 1).result()
        assert "in fail" in str(raised.value.__cause__)
        with pytest.raises(RuntimeError, match="cannot be sent"):
            processes.submit(pair, 1).result()
        assert processes.submit(square, 2).result()[0] == 4


def interrupted(futures: list[Future[Any]]) -> None:
    begun = threading.Event()
    with Processes(1, nothing, (), on_report=lambda _: begun.set()) as processes:
        futures += [processes.submit(sleep_soundly, 600), processes.submit(square, 1)]
        assert begun.wait(120)
        raise KeyboardInterrupt


def test_an_exception_waits_for_nobody() -> None:
    futures: list[Future[Any]] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(futures)
    with pytest.raises(AdminInitError, match="SIGKILL"):
        futures[0].result()
    assert futures[1].cancelled()


def sleep_soundly(seconds: int) -> None:
    report("begun")
    time.sleep(seconds)


PARENT = """
import os, time
from admin_init._utils.processes import imap_unordered

def sleep(_):
    with open("worker", "w") as file:
        file.write(str(os.getpid()))
    os.replace("worker", "pid")
    time.sleep(600)

if __name__ == "__main__":
    list(imap_unordered(sleep, [1], 2))
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


def test_the_death_of_the_server_is_named() -> None:
    dead = mock.patch.object(popen_forkserver.Popen, "_launch", side_effect=EOFError)
    with Processes(1, nothing, (), fresh=True) as processes:
        with dead, pytest.raises(AdminInitError, match="that starts the workers has died"):
            processes.submit(square, 3).result()
        assert processes.submit(square, 4).result()[0] == 16
