"""Handlers that answer SIGINT and SIGTERM at once, whatever the main thread is doing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""The signals that are handled, and the word for each in messages."""

_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it

_wakeup_fds: set[int] = set()


@contextmanager
def on_signals(answer: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call ``answer`` at every SIGINT and SIGTERM, in its own thread.

    Python's own handlers wait until the main thread returns from C++, which may take minutes, and
    code there may catch the exceptions that they raise or mistake them for other errors. Ignored
    signals stay ignored. Outside the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    answered = [number for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN]

    def listen() -> None:
        while number := os.read(reading, 1)[0]:
            if number in answered:
                answer(signal.Signals(number))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    _wakeup_fds.add(writing)
    former_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # Python writes the number to the pipe only if the signal has a Python handler.
    former = {number: signal.signal(number, _leave_to_listener) for number in answered}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_fd)
        _wakeup_fds.discard(writing)
        # Closing the pipe does not end the listener: forked children have it open, too.
        os.write(writing, b"\0")
        listener.join()
        os.close(writing)
        os.close(reading)


def end_at_once(number: signal.Signals, line: str) -> NoReturn:
    """End this process and its workers, with only a line on standard error.

    There is no cleanup, as after a kill: this is for commands that continue when repeated.
    """
    try:
        for child in multiprocessing.active_children():
            child.kill()
        for stream in (1, 2):
            if os.isatty(stream):
                os.write(stream, _SHOW_CURSOR)
        os.write(2, f"{line}\n".encode())
    finally:
        os._exit(128 + number)


def _leave_to_listener(number: int, frame: object) -> None:
    pass


def _forget_listener() -> None:
    # A forked child would write to its parent's pipe, so that one Ctrl-C would count as many.
    former = signal.set_wakeup_fd(-1)
    if former not in _wakeup_fds:
        signal.set_wakeup_fd(former)


with contextlib.suppress(AttributeError):  # systems without fork
    os.register_at_fork(after_in_child=_forget_listener)
