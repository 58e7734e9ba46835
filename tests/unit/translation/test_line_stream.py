"""Lines that arrive one by one, together, in pieces, or damaged."""

from __future__ import annotations

import io
import os

import pytest

from admin_init.translation.line_stream import LineStream


def lines_of(content: bytes, batch_size: int = 64) -> tuple[list[list[str]], list[str]]:
    problems: list[str] = []
    return list(LineStream(io.BytesIO(content), problems.append, batch_size)), problems


def test_a_line_is_there_before_the_next_is_written() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as sender:
        batches = iter(LineStream(stream, pytest.fail))
        sender.write(b"one\n")
        assert next(batches) == ["one"]
        sender.write("zwö".encode()[:-1])  # half a letter is not half a line
        sender.write("ö".encode()[1:] + b"lf\nthree\nfo")
        assert next(batches) == ["zwölf", "three"]
        sender.write(b"ur")
        sender.close()
        assert list(batches) == [["four"]]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n\nb", ["a", "", "b"]),
        ("a\rb\u2028c\x0c\x85\r\nd\n".encode(), ["a\rb\u2028c\x0c\x85\r", "d"]),
    ],
)
def test_only_a_newline_ends_a_line(content: bytes, lines: list[str]) -> None:
    batches, problems = lines_of(content)
    assert [line for batch in batches for line in batch] == lines
    assert not problems


def test_batches_are_of_the_size_that_was_asked_for() -> None:
    batches, _ = lines_of(b"x\n" * 7, batch_size=3)
    assert [len(batch) for batch in batches] == [3, 3, 1]


def test_a_line_longer_than_what_is_read_at_once_is_one() -> None:
    long = b"x" * (2**20 + 5)
    batches, _ = lines_of(b"a\n" + long + b"\nb\n")
    assert [line for batch in batches for line in batch] == ["a", long.decode(), "b"]


def test_lines_that_are_not_utf_8_are_named_by_number_and_empty() -> None:
    stream = io.BytesIO(b"a\n\xff\nb\nx\xc3\n" + b"c\n" * 70 + b"\xed\xa0\x80")
    problems: list[str] = []
    found = LineStream(stream, problems.append, batch_size=3)
    lines = [line for batch in found for line in batch]
    assert lines == ["a", "", "b", "", *["c"] * 70, ""]
    assert found.undecodable == 3
    assert [
        problem.partition(" of the input is not UTF-8: byte ")[::2] for problem in problems
    ] == [
        ("line 2", "1, invalid start byte."),
        ("line 4", "2, unexpected end of data."),
        ("line 75", "1, invalid continuation byte."),
    ]
