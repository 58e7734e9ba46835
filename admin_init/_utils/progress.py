"""Progress of a command: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text
from typing_extensions import override

EVERY = 60.0
"""Seconds between the lines of a task."""


def has_bars() -> bool:
    """Return whether standard error can show bars: a terminal or a notebook."""
    console = Console(stderr=True)
    return console.is_terminal or console.is_jupyter


def log_line(text: str) -> None:
    """Write a line with the time to standard error, and flush it."""
    sys.stderr.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Format a duration as ``h:mm:ss``."""
    return str(timedelta(seconds=round(seconds)))


def progress(*, shown: bool = True) -> Progress:
    """Create a progress display on standard error: bars on a terminal, otherwise timed lines.

    Args:
        shown: Whether to write anything.
    """
    if not has_bars():
        return Lines(shown=shown)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        # The present stream, because standard error is redirected while subwords are learned.
        console=Console(file=sys.stderr, quiet=not shown),
        disable=not shown,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Lines(Progress):
    """Progress display that writes a line when a task starts, every minute, and when it ends.

    Args:
        shown: Whether to write anything.
        get_time: The clock, in seconds.
    """

    def __init__(self, *, shown: bool = True, get_time: Callable[[], float] | None = None) -> None:
        # Estimate the remaining time from all steps, because a task may have only a few long ones.
        super().__init__(disable=True, speed_estimate_period=1e9, get_time=get_time)
        self._shown = shown
        self._said: dict[TaskID, float] = {}
        self.print = self._print  # type: ignore[assignment]

    @override
    def add_task(self, description: str, *args: Any, **options: Any) -> TaskID:
        """Start a task."""
        task_id = super().add_task(description, *args, **options)
        self._said[task_id] = self.get_time()
        if self._tasks[task_id].total != 0:
            self._print(f"{description}: started")
        return task_id

    @override
    def update(self, task_id: TaskID, **changed: Any) -> None:
        """Update the progress of a task."""
        self._noting(task_id, super().update, **changed)

    @override
    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance the progress of a task."""
        self._noting(task_id, super().advance, advance)

    def _noting(
        self, task_id: TaskID, change: Callable[..., None], *args: Any, **options: Any
    ) -> None:
        before = self._tasks[task_id].finished
        change(task_id, *args, **options)
        task, now = self._tasks[task_id], self.get_time()
        done = task.finished and not before
        if not done and (task.finished or now - self._said[task_id] < EVERY):
            return
        self._said[task_id] = now
        parts = [f"{task.description}: {task.completed:,.0f}"]
        if task.total is not None:
            parts[0] += f" of {task.total:,.0f} ({task.percentage:.0f}%)"
        parts.append(f"{duration(task.elapsed or 0)} elapsed")
        if not done and task.time_remaining is not None:
            parts.append(f"about {duration(task.time_remaining)} to go")
        self._print(", ".join(parts))

    def _print(self, markup: str) -> None:
        if self._shown:
            log_line(Text.from_markup(markup).plain)
