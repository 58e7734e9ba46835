"""Word counts in sorted files that are merged, so that they need not fit into memory."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from admin_init._utils.atomic_files import write_whole

_FAN_IN = 64

WordCount = tuple[str, int]


def save_counts(counts: Iterable[WordCount], path: Path) -> None:
    """Write word counts, one ``word count`` per line.

    Args:
        counts: The counts, sorted by word.
        path: The file.
    """
    lines = (f"{word} {count}\n".encode() for word, count in counts)
    write_whole(path, lambda file: file.writelines(lines))


def count_words(texts: Iterable[str], path: Path) -> None:
    """Count the words of texts, and write the counts sorted by word."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    save_counts(sorted(counts.items()), path)


def merge_counts(files: list[Path], scratch: Path) -> Path:
    """Add up the counts of many files without holding them in memory.

    Args:
        files: Files from :func:`count_words`, at least one.
        scratch: Folder for intermediate files; at most 64 files are open at once.

    Returns:
        A file with every word once.
    """
    generation = 0
    while len(files) > 1:
        merged = []
        for start in range(0, len(files), _FAN_IN):
            merged.append(scratch / f"merged.{generation}.{start:06}.words")
            with ExitStack() as opened:
                streams = [load_counts(path, opened) for path in files[start : start + _FAN_IN]]
                save_counts(_sum_equal(heapq.merge(*streams)), merged[-1])
        files, generation = merged, generation + 1
    return files[0]


def load_counts(path: Path, opened: ExitStack) -> Iterator[WordCount]:
    """Read the counts of a file line by line.

    Args:
        path: The file.
        opened: Stack that closes the file.
    """
    file = opened.enter_context(path.open("rb"))
    for line in file:
        word, _, count = line.decode("utf-8").rpartition(" ")
        yield word, int(count)


def most_frequent(path: Path, number: int) -> tuple[list[WordCount], int]:
    """Find the most frequent words of a file.

    Args:
        path: File from :func:`merge_counts`.
        number: Maximum number of words. Ties are resolved in the order of code points.

    Returns:
        The words with their counts, and the number of distinct words in the file.
    """
    distinct = 0

    def counted() -> Iterator[WordCount]:
        nonlocal distinct
        for word_count in load_counts(path, opened):
            distinct += 1
            yield word_count

    with ExitStack() as opened:
        # The file is sorted by word, and nsmallest keeps the order of equal counts.
        found = heapq.nsmallest(number, counted(), key=lambda item: -item[1])
    return found, distinct


def _sum_equal(counts: Iterator[WordCount]) -> Iterator[WordCount]:
    for word, group in groupby(counts, key=itemgetter(0)):
        yield word, sum(count for _, count in group)
