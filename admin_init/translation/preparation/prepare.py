"""Preparation of a parallel corpus for training."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from admin_init._utils.atomic_files import write_bytes
from admin_init._utils.progress import progress as shown_progress
from admin_init._utils.validation import PositiveInt, check
from admin_init.errors import CorpusError, import_extra
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.preparation.binarize import write_data_bin
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import Manifest, Split
from admin_init.translation.preparation.pipeline import Pipeline
from admin_init.translation.preparation.reading import read_corpus
from admin_init.translation.preparation.workspace import Workspace
from admin_init.translation.subwords.tokenizer import SUBWORD_MODELS


def prepare(
    corpus: ParallelCorpus,
    destination: str | PathLike[str],
    *,
    workers: PositiveInt = 1,
    shard_size: PositiveInt = 50_000,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Manifest:
    """Clean a corpus, split it into subwords and write it as a fairseq data-bin.

    Training pairs are dropped if a side is empty, too long or too short. The other splits are
    never cleaned, because scores on a cleaned test set cannot be compared with published ones.

    The folder gets ``dict.<language>.txt`` (the same joined dictionary for both languages), the
    subword model, ``<split>.<source>-<target>.<language>.{bin,idx}``, the plain reference text
    ``<split>.<source>-<target>.<target>.txt`` of every split except ``train``, and
    ``prepare.json``. It appears only when it is complete. ``workers`` and ``shard_size`` do not
    change what is written.

    A killed or interrupted run leaves its finished work in a hidden folder beside the destination,
    and the same call continues from it. Memory grows with the corpus only by 24 bytes per sentence
    pair.

    Args:
        corpus: The corpus.
        destination: The folder to write. A folder prepared before from the same sentences with the
            same settings is kept as it is.
        workers: Number of worker processes.
        shard_size: Number of sentence pairs that a process handles at once. A larger number takes
            more memory, and a killed run loses more work.
        overwrite: Whether to replace a folder that was prepared differently.
        progress: Whether to show progress on standard error, as bars on a terminal and as lines
            elsewhere.
        settings: Fields of :class:`~admin_init.translation.preparation.config.PrepareConfig`.

    Returns:
        The manifest: the numbers of pairs read, kept and dropped. ``str()`` of it is a readable
        summary.

    Raises:
        CorpusError: The corpus cannot be used, or the folder holds something else or is being
            prepared by another process.
        MissingExtraError: A package that the settings need is not installed.

    Examples:
        >>> from admin_init.translation.corpora.config import CorpusConfig
        >>> corpus = CorpusConfig(train=200, valid=10, test=10).open()
        >>> manifest = prepare(corpus, "data-bin", vocabulary_size=200, progress=False)
        >>> manifest.splits["train"].kept
        200
    """
    destination = Path(destination)
    config = PrepareConfig(**settings)
    check(prepare, locals(), CorpusError)
    languages = {"source_lang": corpus.source_lang, "target_lang": corpus.target_lang}
    manifest = Manifest(settings=languages | asdict(config), splits={}, versions=_versions(config))
    _check_splits(corpus, config)
    workspace = Workspace(destination)
    with shown_progress(shown=progress) as display:
        read = partial(read_corpus, corpus, config, shard_size, display)
        made = _finished(destination, manifest, read, overwrite)
        if made is not None:
            workspace.discard()
            return made
        # The work of a killed run can be used only if settings and corpus have not changed.
        if not manifest.splits and workspace.plan | {"splits": {}} == _plan(manifest, shard_size):
            manifest.splits = read()
        with workspace:
            # Another process may have finished meanwhile.
            made = _finished(destination, manifest, read, overwrite)
            if made is not None:
                return made
            if workspace.plan != _plan(manifest, shard_size):
                workspace.clear()
                manifest.splits = read(workspace.shards)
                workspace.plan = _plan(manifest, shard_size)
            shards = Pipeline(config, workspace, workers, shard_size, display).run(manifest)
            write_data_bin(shards, manifest, workspace.result)
            model = SUBWORD_MODELS[config.subwords]
            write_bytes(workspace.result / model, (workspace.model / model).read_bytes())
            manifest.seal(workspace.result)
            workspace.publish()
    return manifest


def _versions(config: PrepareConfig) -> dict[str, str]:
    packages = ["sentencepiece"] if config.subwords == "sentencepiece" else ["subword_nmt"]
    if config.subwords == "subword-nmt" or config.normalize:
        packages.append("sacremoses")
    for package in packages:
        import_extra("translation" if package == "sentencepiece" else "wmt", package)
    return {package: version(package.replace("_", "-")) for package in packages}


def _check_splits(corpus: ParallelCorpus, config: PrepareConfig) -> None:
    if "train" not in corpus.splits:
        raise CorpusError(f"The corpus has no split 'train', only {sorted(corpus.splits)}.")
    if config.valid_every and "valid" in corpus.splits:
        raise CorpusError(
            "`valid_every` makes a split 'valid' from training pairs, but the corpus already has a "
            "split 'valid'. Remove one of the two."
        )


def _finished(
    destination: Path,
    manifest: Manifest,
    read: Callable[[], dict[str, Split]],
    overwrite: bool,
) -> Manifest | None:
    """Return the manifest of the destination if it is already prepared as asked, else None."""
    if not destination.exists():
        return None
    made = Manifest.load(destination)
    if overwrite and made.settings != manifest.settings:
        return None
    manifest.splits = manifest.splits or read()
    differences = manifest.differences(made) or made.damages(destination)
    if not differences:
        return made
    if not overwrite:
        raise CorpusError(
            f"{destination} was prepared differently: {'; '.join(differences)}. Choose another "
            "folder, or pass overwrite=True to replace it."
        )
    return None


def _plan(manifest: Manifest, shard_size: int) -> dict[str, Any]:
    return {**asdict(manifest), "shard_size": shard_size}
