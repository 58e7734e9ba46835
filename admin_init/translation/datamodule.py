"""The batches of a data-bin, for Lightning."""

import os
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from admin_init.translation.batching import TranslationBatch
from admin_init.translation.corpora import check_languages
from admin_init.translation.databin import IndexedDataset, JoinedDataset
from admin_init.translation.errors import CorpusError
from admin_init.translation.loading import (
    FixedBatches,
    ParallelDataset,
    ResumableLoader,
    TokenBatchSampler,
)
from admin_init.translation.manifest import NAME, Manifest
from admin_init.translation.subwords import Subwords


class TranslationDataModule(Subwords, LightningDataModule):
    """Loads a folder that :func:`~admin_init.translation.prepare.prepare` or fairseq has made.

    Training batches come in an order that depends on the seed and the epoch; every rank gets its
    own. A run that resumes from a checkpoint, in the middle of an epoch too, gets the batches that
    it would have got. Validation and test batches come in a fixed order.

    Args:
        data: The folder with ``dict.*.txt`` and ``train.*.bin``, see :meth:`pairs`.
        source_lang: The language translated from.
        target_lang: The language translated into.
        max_tokens: The most tokens of a side of a batch, padding included.
        left_pad_source: Whether the padding of the source comes before it, as by default in
            fairseq.
        num_workers: How many processes load the batches.
        seed: Of the order of the training batches.

    Example::

        data = TranslationDataModule("data-bin/multi30k", "en", "de", max_tokens=4096)
        trainer.fit(model, data)
    """

    def __init__(
        self,
        data: str | PathLike[str],
        source_lang: str,
        target_lang: str,
        *,
        max_tokens: int = 4096,
        left_pad_source: bool = False,
        num_workers: int = 0,
        seed: int = 1,
    ) -> None:
        LightningDataModule.__init__(self)
        Subwords.__init__(self, data, source_lang, target_lang)
        check_languages(source_lang, target_lang)
        if os.pathsep in str(data) and not Path(data).exists():
            raise CorpusError(
                f"`data` must be one folder, but is {data}. Put the training data of the others "
                "into the first, as train1, train2, ...: all of them are trained on in every epoch."
            )
        bounds = (("max_tokens", max_tokens, 1), ("num_workers", num_workers, 0), ("seed", seed, 0))
        for name, value, least in bounds:
            if value is None or value < least:
                raise CorpusError(f"`{name}` must be at least {least}, but is {value}.")
        # A checkpoint remembers them, as primitives: `admin-init translate` needs the subwords.
        self.save_hyperparameters(
            {"data": str(data), "source_lang": source_lang, "target_lang": target_lang}
        )
        self.max_tokens = max_tokens
        self.left_pad_source = left_pad_source
        self.num_workers = num_workers
        self.seed = seed

    def prepare_data(self) -> None:
        """Sees that all files are what they were; those of fairseq, which left no sums, may differ.

        Raises:
            CorpusError: A file of the folder is missing or damaged.
        """
        if (self.folder / NAME).exists():
            damages = Manifest.load(self.folder).damages(self.folder)
            if damages:
                raise CorpusError(
                    f"{self.folder} is not what was prepared: {'; '.join(damages)}. Prepare the "
                    "corpus anew."
                )

    def pairs(self, split: str) -> ParallelDataset:
        """Open a split, such as ``train``.

        As in fairseq, ``train`` goes on in ``train1``, ``train2``, ... where the folder has them,
        and a file may be named for either direction: that of ``en-de`` also serves ``de-en``.

        Raises:
            CorpusError: The folder does not have it, or it is damaged.
        """
        names = [split, *(f"{split}{number}" for number in range(1, self._parts(split)))]
        parts = [
            ParallelDataset(
                IndexedDataset(f"{prefix}.{self.source_lang}", len(self.source_dictionary)),
                IndexedDataset(f"{prefix}.{self.target_lang}", len(self.target_dictionary)),
                left_pad_source=self.left_pad_source,
            )
            for prefix in map(self._prefix, names)
        ]
        if len(parts) == 1:
            return parts[0]
        sources, targets = zip(*((part.source, part.target) for part in parts), strict=True)
        return ParallelDataset(
            JoinedDataset(sources), JoinedDataset(targets), left_pad_source=self.left_pad_source
        )

    def _parts(self, split: str) -> int:
        """Count the parts of a split: a training split may have several."""
        found = 1
        while split == "train" and self._files(self._prefix(f"{split}{found}")):
            found += 1
        return found

    def _prefix(self, split: str) -> Path:
        """Return how the names of a split begin: ``train.en-de``, or ``train.de-en`` if there."""
        first, second = self.source_lang, self.target_lang
        prefix, turned = (
            self.folder / f"{split}.{pair}" for pair in (f"{first}-{second}", f"{second}-{first}")
        )
        return turned if self._files(turned) and not self._files(prefix) else prefix

    def _files(self, prefix: Path) -> bool:
        """Whether there is any file of a data-bin; where one is missing, opening it says so."""
        return any(
            Path(f"{prefix}.{lang}.{kind}").exists()
            for lang in (self.source_lang, self.target_lang)
            for kind in ("idx", "bin")
        )

    def references(self, split: str) -> list[str]:
        """Reads the plain translations of a split other than ``train``, in its order.

        Raises:
            CorpusError: The folder does not have them.
        """
        name = f"{self._prefix(split).name}.{self.target_lang}.txt"
        try:
            text = (self.folder / name).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"{self.folder} has no plain reference text {name} ({error}). Put one there, a "
                "line a sentence, or prepare the corpus with `admin-init prepare`."
            ) from error
        return text.removesuffix("\n").split("\n")

    def train_dataloader(self) -> DataLoader[TranslationBatch]:
        """Returns this rank's training batches."""
        trainer = self.trainer
        if trainer is None:
            return ResumableLoader(self._sampler(), self.num_workers)
        if trainer.overfit_batches:  # type: ignore[attr-defined]
            # Lightning overfits batches that come in a fixed order.
            return self._fixed("train")
        sampler = self._sampler(trainer.world_size, trainer.global_rank)
        # Where a run resumes at the end of an epoch, Lightning restores its own progress only.
        progress: Any = trainer.fit_loop.epoch_progress.current
        sampler.epoch = progress.processed
        limit = trainer.limit_train_batches
        share = limit if isinstance(limit, int) else int(limit * len(sampler))
        sampler.epoch_length = min(share, len(sampler))
        return ResumableLoader(sampler, self.num_workers)

    def val_dataloader(self) -> DataLoader[TranslationBatch]:
        """Returns the batches of ``valid``."""
        return self._fixed("valid")

    def test_dataloader(self) -> DataLoader[TranslationBatch]:
        """Returns the batches of ``test``."""
        return self._fixed("test")

    def predict_dataloader(self) -> DataLoader[TranslationBatch]:
        """Returns the batches of ``test``."""
        return self._fixed("test")

    def _sampler(self, num_replicas: int = 1, rank: int = 0) -> TokenBatchSampler:
        return TokenBatchSampler(
            self.pairs("train"),
            max_tokens=self.max_tokens,
            seed=self.seed,
            num_replicas=num_replicas,
            rank=rank,
        )

    def _fixed(self, split: str) -> DataLoader[TranslationBatch]:
        # Without a generator of its own a loader draws from torch's, and the validation would
        # change the dropout of the training after it.
        return DataLoader(
            FixedBatches(self.pairs(split), self.max_tokens),
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),
        )
