"""Standard output of the command line: results, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from admin_init.errors import AdminInitError

_results: list[TextIO] = []


@contextmanager
def results_only() -> Iterator[None]:
    """Redirect to standard error whatever is printed meanwhile, other than to :func:`results`.

    Progress bars and tables of libraries write to ``sys.stdout``, each in its own way.

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
    """Return the stream of results: standard output, also inside :func:`results_only`."""
    return _results[-1] if _results else sys.stdout


def say(text: str) -> None:
    """Write a line to the stream of results, at once."""
    results().write(f"{text}\n")
    results().flush()
