"""Sentences among the tags and tabs of raw corpora. Each of these may be a ``Text.extract``."""

import re
from collections.abc import Iterable, Iterator


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Finds the sentences of a WMT ``.sgm`` or an IWSLT ``.xml``, as sacreBLEU does.

    The files are not XML, whatever they are called: each ``<seg>`` has a line of its own, and
    ``&`` stands for itself. Source: ``sacrebleu/dataset/fake_sgml.py``, version 2.6.
    """
    for line in lines:
        if line.startswith("<seg "):
            # What `re.sub(r"<seg.*?>(.*)</seg>.*?", r"\1", line)` does, in linear time.
            start, end = line.find(">", len("<seg")) + 1, line.rfind("</seg>")
            found = 0 < start <= end
            text = line[start:end] + line[end + len("</seg>") :] if found else line
            yield " ".join(text.split())


def talks(lines: Iterable[str]) -> Iterator[str]:
    """Finds the sentences of IWSLT's ``train.tags``: the talks, their titles and descriptions.

    Source: the ``grep`` and ``sed`` of fairseq's ``prepare-iwslt14.sh``.
    """
    for line in lines:
        if not any(tag in line for tag in ("<url>", "<talkid>", "<keywords>")):
            yield re.sub("</?(title|description)>", "", line)


def column(lines: Iterable[str], index: int) -> Iterator[str]:
    """Finds the sentences in a column of a table, counted from 0; empty where it has no such."""
    for line in lines:
        cells = line.split("\t")
        yield cells[index].strip() if index < len(cells) else ""
