"""Sentences among the tags and tabs of raw corpora. Each of these may be a ``Text.extract``."""

import re
from collections.abc import Iterable, Iterator

_SEGMENT = re.compile(r"<seg.*?>(.*)</seg>.*?")


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Finds the sentences of a WMT ``.sgm`` or an IWSLT ``.xml``, as sacreBLEU does.

    The files are not XML, whatever they are called: each ``<seg>`` has a line of its own, and
    ``&`` stands for itself. Source: ``sacrebleu/dataset/fake_sgml.py``, version 2.6.
    """
    for line in lines:
        if line.startswith("<seg "):
            yield " ".join(_SEGMENT.sub(r"\1", line).split())


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
