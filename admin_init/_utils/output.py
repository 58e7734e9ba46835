"""Standard output of the command line, reserved for results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from admin_init.errors import AdminInitError

_results: list[TextIO] = []


@contextmanager
def results_only() -> Iterator[None]:
    """Redirect everything that is printed, except to :func:`results`, to standard error.

    Libraries print progress bars and tables to ``sys.stdout``, which would mix with the results.

    Raises:
        AdminInitError: Standard output is closed.
    """
    if sys.stdout is None:
        raise AdminInitError(
            "standard output is closed. Redirect it to a file, or to /dev/null if the results are "
            "not needed."
        )
    _results.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


def results() -> TextIO:
    """Return the stream for results: standard output, also inside :func:`results_only`."""
    return _results[-1] if _results else sys.stdout


def say(text: str) -> None:
    """Write a line to the stream for results, and flush it."""
    results().write(f"{text}\n")
    results().flush()
