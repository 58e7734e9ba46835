"""One pass over the sentence pairs of a split."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

from admin_init.translation.errors import CorpusError


class Reading:
    """Reads pairs in lists, and notes what it has read.

    Args:
        pairs: Sentence pairs.
        size: How many a list has; the last may have fewer.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], size: int) -> None:
        self._pairs = pairs
        self._size = size
        self._digest = hashlib.sha256()
        self.read = 0
        """How many pairs have been read."""

    def __iter__(self) -> Iterator[list[tuple[str, str]]]:
        pairs = iter(self._pairs)
        while part := list(islice(pairs, self._size)):
            text = "".join(f"{source}\n{target}\n" for source, target in part)
            try:
                self._digest.update(text.encode("utf-8"))
            except UnicodeEncodeError as error:
                raise CorpusError(
                    f"After pair {self.read:,} there is {error.object[error.start]!r}, a half of a "
                    "surrogate pair, which UTF-8 has no bytes for. Read the text as UTF-8."
                ) from error
            self.read += len(part)
            yield part

    @property
    def sha256(self) -> str:
        """Of the pairs that have been read."""
        return self._digest.hexdigest()
