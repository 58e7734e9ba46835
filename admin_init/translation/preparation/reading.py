"""Single pass over a corpus that counts, hashes and shards its sentence pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rich.progress import Progress

from admin_init.errors import CorpusError
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import Split
from admin_init.translation.preparation.shards import Shard, TextPairs

Pairs = list[tuple[str, str]]


def read_corpus(
    corpus: ParallelCorpus,
    config: PrepareConfig,
    shard_size: int,
    progress: Progress,
    shards: Path | None = None,
) -> dict[str, Split]:
    """Read every split of a corpus, with one shard in memory at a time.

    Args:
        corpus: The corpus.
        config: Settings of the preparation; ``valid_every`` adds a split ``valid``.
        shard_size: Number of pairs in a shard; the last shard of a split may have fewer.
        progress: Display of the number of pairs that have been read.
        shards: Folder for the raw text of every shard; None to only count and hash.

    Returns:
        Statistics of every split: number of pairs and SHA-256.

    Raises:
        CorpusError: A split has no pairs or cannot be read.
    """
    splits = {}
    for name, pairs in corpus.splits.items():
        step = progress.add_task(f"reading {name}", total=None)
        digest, read = hashlib.sha256(), 0
        for number, part in enumerate(_parts(pairs, shard_size)):
            digest.update(_encoded(part, read))
            if shards is not None:
                _save(part, read, Shard(shards, name, number))
            read += len(part)
            progress.update(step, completed=read)
        progress.update(step, total=read)
        if not read:
            raise CorpusError(
                f"{name}: the split has no sentence pairs. Leave the split out, or give it some."
            )
        files = list(getattr(pairs, "files", []))
        splits[name] = Split(files=files, sha256=digest.hexdigest(), read=read)
    if config.valid_every:
        train = splits["train"]
        splits["valid"] = Split(files=train.files, sha256=train.sha256, read=0)
    return splits


def _parts(pairs: Iterable[tuple[str, str]], size: int) -> Iterator[Pairs]:
    rest = iter(pairs)
    while part := list(islice(rest, size)):
        yield part


def _encoded(part: Pairs, before: int) -> bytes:
    text = "".join(f"{source}\n{target}\n" for source, target in part)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"After pair {before:,} there is {error.object[error.start]!r}, half of a surrogate "
            "pair, which UTF-8 cannot encode. Read the text as UTF-8."
        ) from error


def _save(part: Pairs, before: int, shard: Shard) -> None:
    sources, targets = map(list, zip(*part, strict=True))
    lines = list(range(before + 1, before + 1 + len(part)))
    TextPairs(lines, sources, targets).save(shard.path("raw"))
