"""From a parallel corpus to a folder that can be trained on."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from admin_init.translation.corpora import ParallelCorpus, ParallelFiles
from admin_init.translation.databin import IndexedDatasetBuilder
from admin_init.translation.dictionary import Dictionary
from admin_init.translation.errors import CorpusError
from admin_init.translation.manifest import Manifest, Split
from admin_init.translation.tokenizer import Tokenizer

TOKENIZER = "sentencepiece.bpe.model"
"""The name of the SentencePiece model in a prepared folder."""

Pieces = tuple[list[str], list[str]]


def prepare(
    corpus: ParallelCorpus,
    destination: str | PathLike[str],
    *,
    vocabulary_size: int = 4000,
    max_length: int = 250,
    max_ratio: float | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Cleans a corpus, splits it into subwords and writes it as fairseq's data-bin.

    Training pairs are dropped where a side is empty or too long. The other splits are kept whole:
    scores on a cleaned test set could not be compared with anybody's.

    The folder gets ``dict.<language>.txt`` (the same joined dictionary twice), a SentencePiece
    model, ``<split>.<source>-<target>.<language>.{bin,idx}``, the plain reference text
    ``<split>.<source>-<target>.<target>`` of every split but ``train``, and ``prepare.json``. It
    appears whole, or not at all.

    Args:
        corpus: What is prepared.
        destination: The folder. One that was made from the same sentences with the same settings is
            used as it is.
        vocabulary_size: The most subwords of both languages together.
        max_length: The most subwords that a side of a training pair may have.
        max_ratio: The most that one side of a training pair may be longer than the other, in
            subwords; None for no limit.
        overwrite: Whether to replace a folder that was made otherwise.

    Returns:
        What was read, kept and dropped; its ``str`` is for people.

    Raises:
        CorpusError: The corpus cannot be used, or the folder holds something else.
    """
    destination = Path(destination)
    manifest = Manifest(
        settings={
            "source_lang": corpus.source_lang,
            "target_lang": corpus.target_lang,
            "vocabulary_size": vocabulary_size,
            "max_length": max_length,
            "max_ratio": max_ratio,
        },
        splits={name: _survey(pairs) for name, pairs in corpus.splits.items()},
    )
    if "train" not in manifest.splits:
        raise CorpusError(f"The corpus has no split 'train', only {sorted(manifest.splits)}.")
    if destination.exists():
        made = Manifest.load(destination)
        differences = manifest.differences(made) or _damages(made, destination)
        if not differences:
            return made
        if not overwrite:
            raise CorpusError(
                f"{destination} was prepared otherwise: {'; '.join(differences)}. Choose another "
                "folder, or pass overwrite=True to replace it."
            )
    scratch = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir(parents=True)
        _build(corpus, manifest, scratch)
        _replace(destination, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _survey(pairs: Iterable[tuple[str, str]]) -> Split:
    digest, read = hashlib.sha256(), 0
    for source, target in pairs:
        digest.update(f"{source}\n{target}\n".encode())
        read += 1
    files = [str(pairs.source), str(pairs.target)] if isinstance(pairs, ParallelFiles) else []
    return Split(files=files, sha256=digest.hexdigest(), read=read)


def _damages(manifest: Manifest, folder: Path) -> list[str]:
    return [
        f"{name} is missing or damaged"
        for name, digest in manifest.outputs.items()
        if not (folder / name).is_file() or _sha256(folder / name) != digest
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(corpus: ParallelCorpus, manifest: Manifest, folder: Path) -> None:
    train = corpus.splits["train"]
    tokenizer = Tokenizer.train(
        (text for pair in train for text in pair), manifest.settings["vocabulary_size"]
    )
    tokenizer.save(folder / TOKENIZER)
    counts: Counter[str] = Counter()
    for source, target in _clean(_encode(train, tokenizer), manifest):
        counts.update(source)
        counts.update(target)
    dictionary = Dictionary.from_counts(counts)
    manifest.dictionary_size = len(dictionary)
    for lang in (corpus.source_lang, corpus.target_lang):
        dictionary.save(folder / f"dict.{lang}.txt")

    pair_of_languages = f"{corpus.source_lang}-{corpus.target_lang}"
    for name, pairs in corpus.splits.items():
        prefix = folder / f"{name}.{pair_of_languages}"
        encoded = _encode(pairs, tokenizer)
        if name == "train":
            encoded = _clean(encoded, manifest)
        else:
            # sacreBLEU reads lines: a line separator inside a sentence would shift all after it.
            references = (" ".join(target.splitlines()) + "\n" for _, target in pairs)
            with open(
                f"{prefix}.{corpus.target_lang}", "w", encoding="utf-8", newline="\n"
            ) as file:
                file.writelines(references)
        _write(encoded, prefix, corpus, dictionary, manifest.splits[name])
    manifest.outputs = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest.save(folder)


def _encode(pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> Iterator[Pieces]:
    for source, target in pairs:
        yield tokenizer.encode(source), tokenizer.encode(target)


def _clean(pairs: Iterable[Pieces], manifest: Manifest) -> Iterator[Pieces]:
    max_length, max_ratio = manifest.settings["max_length"], manifest.settings["max_ratio"]
    train = manifest.splits["train"]
    # Emptied, because the pairs are cleaned once to be counted and once to be written.
    train.dropped = {}
    for line, (source, target) in enumerate(pairs, start=1):
        shorter, longer = sorted((len(source), len(target)))
        if not shorter:
            train.drop(line, "empty")
        elif longer > max_length:
            train.drop(line, f"longer than {max_length} subwords")
        elif max_ratio is not None and longer > max_ratio * shorter:
            train.drop(line, f"longer than {max_ratio} times its translation")
        else:
            yield source, target


def _write(
    pairs: Iterable[Pieces],
    prefix: Path,
    corpus: ParallelCorpus,
    dictionary: Dictionary,
    split: Split,
) -> None:
    with (
        IndexedDatasetBuilder(f"{prefix}.{corpus.source_lang}", len(dictionary)) as sources,
        IndexedDatasetBuilder(f"{prefix}.{corpus.target_lang}", len(dictionary)) as targets,
    ):
        for source, target in pairs:
            sources.add(dictionary.encode(source))
            targets.add(dictionary.encode(target))
            split.source_tokens += len(source) + 1
            split.target_tokens += len(target) + 1
            split.kept += 1
    seen = split.kept + sum(dropped.count for dropped in split.dropped.values())
    if not split.kept or seen != split.read:
        raise CorpusError(
            f"{prefix.name}: of {split.read:,} pairs, {seen:,} came at a second reading and "
            f"{split.kept:,} were kept. A split must give all its pairs whenever it is iterated, "
            "and some must be neither empty nor too long."
        )


def _replace(destination: Path, scratch: Path) -> None:
    former = scratch.with_suffix(".former")
    if destination.exists():
        destination.rename(former)
    scratch.rename(destination)
    shutil.rmtree(former, ignore_errors=True)
