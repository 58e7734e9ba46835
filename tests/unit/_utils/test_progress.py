from __future__ import annotations

import io
import re
import sys

import pytest
from rich.progress import Progress

from admin_init._utils.progress import Lines, duration, has_bars, log_line, progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def texts(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines since the last call, without their times."""
    out, err = capsys.readouterr()
    assert not out
    lines = err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    return [line[20:] for line in lines]


def test_a_task_has_a_line_a_minute_and_one_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Lines(get_time=clock) as lines:
        task = lines.add_task("counting", total=4000)
        assert texts(capsys) == ["counting: started"]
        clock.now = 59
        lines.advance(task, 500)
        assert texts(capsys) == []
        clock.now = 60
        lines.advance(task, 500)
        (line,) = texts(capsys)
        assert re.fullmatch(
            r"counting: 1,000 of 4,000 \(25%\), 0:01:00 elapsed, about \d:\d\d:\d\d to go", line
        )
        clock.now = 119
        lines.update(task, completed=3000)
        assert texts(capsys) == []
        clock.now = 125
        lines.update(task, completed=4000)
        assert texts(capsys) == ["counting: 4,000 of 4,000 (100%), 0:02:05 elapsed"]
        clock.now = 999
        lines.update(task, completed=4000)
        assert texts(capsys) == []


def test_a_task_of_unknown_length(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(get_time=clock)
    task = lines.add_task("reading", total=None)
    clock.now = 3661
    lines.update(task, completed=12345)
    lines.update(task, total=12345)
    assert texts(capsys) == [
        "reading: started",
        "reading: 12,345, 1:01:01 elapsed",
        "reading: 12,345 of 12,345 (100%), 1:01:01 elapsed",
    ]


def test_nothing_is_said_of_nothing_to_do_or_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().add_task("done before", total=0)
    silent = Lines(shown=False)
    silent.advance(silent.add_task("silent", total=1))
    silent.print("[red]silent[/]")
    assert texts(capsys) == []


def test_markup_is_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().print(r"a: [red]failed[/], 1 of \[2]")
    assert texts(capsys) == ["a: failed, 1 of [2]"]


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    assert has_bars() == terminal
    with progress() as shown:
        assert isinstance(shown, Progress)
        assert isinstance(shown, Lines) != terminal
        shown.advance(shown.add_task("step", total=1))
        shown.print("[green]said[/]")
    assert ("\x1b[" in stream.getvalue()) == terminal
    assert "said" in stream.getvalue()
    silent = io.StringIO()
    monkeypatch.setattr(silent, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", silent)
    with progress(shown=False) as hidden:
        hidden.advance(hidden.add_task("step", total=1))
        hidden.print("said")
    assert not silent.getvalue()


def test_a_line_has_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    log_line("said")
    assert texts(capsys) == ["said"]
    assert duration(3599.6) == "1:00:00"
