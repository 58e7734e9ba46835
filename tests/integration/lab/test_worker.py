"""A worker process of a comparison does not outlive it."""

import os
import signal
import subprocess
import sys

import psutil

PARENT = """
import os, time
from admin_init.lab.comparison.run import enter_worker
from admin_init._utils.processes import Processes

if __name__ == "__main__":
    with Processes(1, enter_worker, (1,)) as processes:
        print(processes.submit(os.getpid).result(), flush=True)
        processes.submit(time.sleep, 600).result()
"""


def test_a_worker_ends_with_its_killed_parent() -> None:
    with open("parent.py", "w", encoding="utf-8") as file:
        file.write(PARENT)
    with subprocess.Popen([sys.executable, "parent.py"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([worker], timeout=60)
    assert not alive, "the worker outlived its parent"
