"""Signals are answered while the main thread is busy, and end a process with its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from admin_init._utils.interruption import WORDS, on_signals


def send_and_wait(number: int, answered: threading.Event) -> None:
    os.kill(os.getpid(), number)
    assert answered.wait(60)


@pytest.mark.parametrize("number", WORDS)
def test_a_signal_is_answered_and_raises_nothing(number: int) -> None:
    before = {number: signal.getsignal(number) for number in WORDS}
    got: list[int] = []
    answered = threading.Event()

    def answer(received: signal.Signals) -> None:
        got.append(received)
        answered.set()

    with on_signals(answer):
        send_and_wait(number, answered)
    assert got == [number]
    assert {number: signal.getsignal(number) for number in WORDS} == before


def test_the_innermost_answers() -> None:
    got: list[str] = []
    outer, inner = threading.Event(), threading.Event()
    with on_signals(lambda _: (got.append("outer"), outer.set())):
        with on_signals(lambda _: (got.append("inner"), inner.set())):
            send_and_wait(signal.SIGTERM, inner)
        send_and_wait(signal.SIGTERM, outer)
    assert got == ["inner", "outer"]


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        got: list[int] = []
        answered = threading.Event()
        with on_signals(lambda number: (got.append(number), answered.set())):
            os.kill(os.getpid(), signal.SIGINT)
            send_and_wait(signal.SIGTERM, answered)
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> None:
        with on_signals(lambda _: None):
            assert signal.getsignal(signal.SIGTERM) == before
            entered.append(True)

    entered: list[bool] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered


def test_the_signal_of_a_forked_child_is_its_own() -> None:
    got: list[int] = []
    answered = threading.Event()
    with on_signals(lambda number: (got.append(number), answered.set())):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        send_and_wait(signal.SIGTERM, answered)
    assert got == [signal.SIGTERM]


BUSY = """
import hashlib, multiprocessing, sys, time
from admin_init._utils.interruption import end_at_once, on_signals

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    child.start()
    with on_signals(lambda number: end_at_once(number, "ended by " + number.name)):
        print(child.pid, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a quarter of an hour, in C
"""


@pytest.mark.parametrize("number", WORDS)
def test_a_process_ends_with_its_children_while_it_is_busy_in_c(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    command = [sys.executable, str(tmp_path / "busy.py")]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        assert process.wait(120) == 128 + number
        assert process.stderr.read() == f"ended by {number.name}\n"
    assert not psutil.wait_procs([child], timeout=60)[1]


def test_a_forked_child_keeps_nobody_waiting() -> None:
    with on_signals(lambda number: None):
        child = os.fork()
        if child == 0:
            signal.pause()
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
