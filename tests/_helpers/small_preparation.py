"""A small corpus, ways to prepare it, and what is written."""

from pathlib import Path
from typing import Any

from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus

KINDS: dict[str, dict[str, Any]] = {
    "sentencepiece": {"vocabulary_size": 100},
    "subword-nmt": {"subwords": "subword-nmt", "merges": 60, "valid_every": 9},
}


def make_corpus(train: list[tuple[str, str]] | None = None) -> ParallelCorpus:
    splits = embedded_corpus("small", seed=1, train=80, valid=5, test=5)
    pairs = {"train": splits["train"] if train is None else train, "test": splits["test"]}
    return ParallelCorpus(source_lang="en", target_lang="de", splits=pairs)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
