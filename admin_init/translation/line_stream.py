"""Lines of text in batches, as they arrive on standard input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BufferedIOBase

_AT_ONCE = 2**20
"""Maximum number of bytes read at once."""


class LineStream:
    """Batches of the lines that have arrived on a stream, without waiting for more.

    A line that is not UTF-8 is reported, and is empty in its batch.

    Args:
        stream: Stream of bytes. A text stream would use the encoding of the user's locale, and
            would also end lines at carriage returns.
        report: Called with a message that names a faulty line by its number.
        batch_size: Maximum number of lines in a batch.
    """

    undecodable: int = 0
    """Number of lines so far that were not UTF-8."""

    def __init__(
        self,
        stream: BufferedIOBase,
        report: Callable[[str], object],
        batch_size: int = 64,
    ) -> None:
        self._stream = stream
        self._report = report
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[str]]:
        number = 1
        pending = bytearray()
        while arrived := self._stream.read1(_AT_ONCE):
            pending += arrived
            if b"\n" in arrived:
                *lines, pending = pending.split(b"\n")
                for begin in range(0, len(lines), self._batch_size):
                    yield self._decoded(lines[begin : begin + self._batch_size], number + begin)
                number += len(lines)
        if pending:
            yield self._decoded([pending], number)

    def _decoded(self, lines: Sequence[bytearray], first: int) -> list[str]:
        decoded = []
        for number, line in enumerate(lines, start=first):
            try:
                decoded.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                self.undecodable += 1
                self._report(
                    f"line {number} of the input is not UTF-8: byte {error.start + 1}, "
                    f"{error.reason}."
                )
                decoded.append("")
        return decoded
