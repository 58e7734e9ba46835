"""Binarization: write shards as a data-bin, as ``fairseq-preprocess`` does."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from admin_init._utils.atomic_files import whole_file
from admin_init.errors import CorpusError
from admin_init.translation.data.databin import IndexedDatasetBuilder
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.manifest import Manifest, Split
from admin_init.translation.preparation.shards import IdPairs, Shard


def write_data_bin(shards: Mapping[str, Sequence[Shard]], manifest: Manifest, folder: Path) -> None:
    """Write the joined dictionary, the ids of all splits, and the plain references.

    Only one shard and the sizes of all sentences are in memory.

    Args:
        shards: The shards of every split, in order.
        manifest: Updated in place with the numbers of kept and dropped pairs.
        folder: The folder to write.

    Raises:
        CorpusError: A split has no pair left.
    """
    counts: Counter[str] = Counter()
    for shard in shards["train"]:
        counts.update(IdPairs.counts(shard.path("ids")))
    dictionary = Dictionary.from_counts(counts)
    manifest.dictionary_size = len(dictionary)
    languages = manifest.settings["source_lang"], manifest.settings["target_lang"]
    for lang in languages:
        dictionary.save(folder / f"dict.{lang}.txt")
    for name, split in manifest.splits.items():
        prefixes = [folder / f"{name}.{'-'.join(languages)}.{lang}" for lang in languages]
        _write_split(shards[name], prefixes, dictionary, split)
        if not split.kept:
            raise CorpusError(
                f"{name}: none of its {split.read:,} pairs was kept: all are empty, too long, or "
                "too different in length."
            )


def _write_split(
    shards: Sequence[Shard], prefixes: Sequence[Path], dictionary: Dictionary, split: Split
) -> None:
    source_prefix, target_prefix = prefixes
    with (
        ExitStack() as opened,
        IndexedDatasetBuilder(source_prefix, len(dictionary)) as sources,
        IndexedDatasetBuilder(target_prefix, len(dictionary)) as targets,
    ):
        plain = None
        for shard in shards:
            part = IdPairs.load(shard.path("ids"))
            ids = np.array([dictionary.index(token) for token in part.vocabulary], np.int64)
            sources.extend(ids[np.asarray(part.source)], np.asarray(part.source_sizes))
            targets.extend(ids[np.asarray(part.target)], np.asarray(part.target_sizes))
            if part.references:
                # Without the ending .txt, fairseq would take the file for a data-bin of type "raw".
                plain = plain or opened.enter_context(whole_file(f"{target_prefix}.txt"))
                plain.writelines(f"{reference}\n".encode() for reference in part.references)
            _record(part, split)
    # Validation pairs drawn from the training data were not read as a split of their own.
    split.read = split.read or split.kept + sum(found.count for found in split.dropped.values())


def _record(part: IdPairs, split: Split) -> None:
    split.kept += len(part.source_sizes)
    split.drawn += part.drawn
    split.source_tokens += len(part.source)
    split.target_tokens += len(part.target)
    dropped = ((line, reason) for reason, lines in part.dropped.items() for line in lines)
    for line, reason in sorted(dropped):
        split.drop(line, reason)
