"""Lightning data module for prepared folders."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from admin_init._utils.validation import NonNegativeInt, PositiveInt, check
from admin_init.errors import CorpusError, require_extra
from admin_init.translation.corpora.parallel import check_languages
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.databin import IndexedDataset, JoinedDataset
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.data.loaders import (
    FixedBatches,
    ParallelDataset,
    ResumableLoader,
    TokenBatchSampler,
    enter_loader,
)
from admin_init.translation.data.prepared import PreparedFolder
from admin_init.translation.preparation.manifest import NAME, Manifest


class TranslationDataModule(PreparedFolder, LightningDataModule):
    """Loads batches from a folder written by ``admin-init prepare`` or fairseq-preprocess.

    The order of the training batches depends on the seed and the epoch, and each rank gets
    different batches. A run that resumes from a checkpoint, even in the middle of an epoch, gets
    the same batches as an uninterrupted run. Validation and test batches have a fixed order.

    Given several folders, each epoch trains on the next one in turn, as in fairseq; everything else
    comes from the first folder. This needs a trainer with ``reload_dataloaders_every_n_epochs=1``.

    Args:
        data: The folder with ``dict.*.txt`` and ``train.*.bin``; or several folders, joined by
            ``:`` (``os.pathsep``), each of which serves one epoch in turn.
        source_lang: Language to translate from.
        target_lang: Language to translate into.
        max_tokens: Maximum number of tokens on each side of a batch, including padding.
        left_pad_source: Whether to pad sources on the left, as fairseq does by default.
        num_workers: Number of processes that load batches; 0 to load in the main process.
        seed: Random seed of the order of the training batches.

    Raises:
        CorpusError: An argument is out of its range, or the two languages are the same.
        MissingExtraError: The extra ``translation`` is not installed.

    Examples:
        >>> from admin_init.translation.corpora.config import CorpusConfig
        >>> from admin_init.translation.preparation.prepare import prepare
        >>> corpus = CorpusConfig(train=200, valid=10, test=10).open()
        >>> _ = prepare(corpus, "data-bin", vocabulary_size=200, progress=False)
        >>> data = TranslationDataModule("data-bin", "en", "de", max_tokens=512)
        >>> sorted(next(iter(data.val_dataloader())).index.tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        data: str | PathLike[str],
        source_lang: str,
        target_lang: str,
        *,
        max_tokens: PositiveInt = 4096,
        left_pad_source: bool = False,
        num_workers: NonNegativeInt = 0,
        seed: NonNegativeInt = 1,
    ) -> None:
        require_extra("translation")
        LightningDataModule.__init__(self)
        PreparedFolder.__init__(self, data, source_lang, target_lang)
        check_languages(source_lang, target_lang)
        check(TranslationDataModule.__init__, locals(), CorpusError)
        # Primitives only: a checkpoint is read with weights_only=True.
        self.save_hyperparameters(
            {"data": str(data), "source_lang": source_lang, "target_lang": target_lang}
        )
        self.max_tokens = max_tokens
        self.left_pad_source = left_pad_source
        self.num_workers = num_workers
        self.seed = seed
        self._restored: tuple[int, int] | None = None  # epoch and position

    def prepare_data(self) -> None:
        """Check that no prepared file has changed. Folders of fairseq have no checksums to compare.

        Raises:
            CorpusError: A file is missing or damaged, or the dictionaries of a folder differ from
                those of the first folder.
        """
        for folder in self.folders:
            if (folder / NAME).exists():
                damages = Manifest.load(folder).damages(folder)
                if damages:
                    raise CorpusError(
                        f"{folder} has changed since it was prepared: {'; '.join(damages)}. "
                        "Prepare the corpus again."
                    )
        for folder in self.folders[1:]:
            for lang, first in (
                (self.source_lang, self.source_dictionary),
                (self.target_lang, self.target_dictionary),
            ):
                path = folder / f"dict.{lang}.txt"
                if list(Dictionary.load(path)) != list(first):
                    raise CorpusError(
                        f"{path} has other tokens than {self.folder / path.name}, so the ids of "
                        "the two folders mean different words. Prepare the folder again with the "
                        "dictionaries of the first folder."
                    )

    def setup(self, stage: str) -> None:
        """Check before training that the trainer can train on every folder.

        Raises:
            CorpusError: A folder has too few training batches for the trainer, or the trainer does
                not reload its data loaders every epoch.
        """
        trainer: Any = self.trainer
        if len(self.folders) == 1 or trainer is None or stage != "fit":
            return
        if trainer.overfit_batches or trainer.limit_train_batches == 0:
            return
        if trainer.reload_dataloaders_every_n_epochs != 1:
            raise CorpusError(
                f"`data` has {len(self.folders)} folders, one for each epoch in turn, so the "
                "trainer must have `reload_dataloaders_every_n_epochs=1`, but it is "
                f"{trainer.reload_dataloaders_every_n_epochs}. Add "
                "--trainer.reload_dataloaders_every_n_epochs 1."
            )
        every = trainer.val_check_interval
        if trainer.check_val_every_n_epoch is None or not trainer.limit_val_batches:
            every = None
        for epoch, folder in enumerate(self.folders):
            batches = self._trainers_sampler(epoch).epoch_length
            if not batches or (isinstance(every, int) and batches < every):
                raise CorpusError(
                    f"{folder} has {batches} training batches, too few for `limit_train_batches` "
                    f"({trainer.limit_train_batches}) or `val_check_interval` ({every}). "
                    "Change these, or lower `max_tokens`."
                )

    def pairs(self, split: str, epoch: int = 0) -> ParallelDataset:
        """Open a split.

        As in fairseq, the files ``train1``, ``train2``, ... of the folder, if any, continue
        ``train``, and the files of ``en-de`` also serve ``de-en``.

        Args:
            split: Name of the split, such as ``train``.
            epoch: The epoch, counted from 0. It selects the folder of ``train`` if there are
                several folders.

        Raises:
            CorpusError: The split is missing or damaged.
        """
        number = epoch % len(self.folders) if split == "train" else 0
        folder = self.folders[number]
        parts = [
            ParallelDataset(
                IndexedDataset(f"{prefix}.{self.source_lang}", len(self.source_dictionary)),
                IndexedDataset(f"{prefix}.{self.target_lang}", len(self.target_dictionary)),
                left_pad_source=self.left_pad_source,
            )
            for prefix in self.prefixes(split, folder)
        ]
        if len(parts) == 1:
            return parts[0]
        sources, targets = zip(*((part.source, part.target) for part in parts), strict=True)
        return ParallelDataset(
            JoinedDataset(sources), JoinedDataset(targets), left_pad_source=self.left_pad_source
        )

    def references(self, split: str) -> list[str]:
        """Read the plain reference translations of a split, one for each sentence pair.

        Raises:
            CorpusError: The folder has no references for this split; ``train`` never has any.
        """
        name = f"{self._prefix(self.folder, split).name}.{self.target_lang}.txt"
        try:
            text = (self.folder / name).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"{self.folder} has no plain reference text {name} ({error}). Add this file with "
                "one sentence per line, or prepare the corpus with `admin-init prepare`."
            ) from error
        return text.removesuffix("\n").split("\n")

    def _fitting(self, split: str, epoch: int = 0) -> ParallelDataset:
        """Open a split, and check that its sentences fit into the trainer's model.

        Targets of ``test`` may be longer, since the model does not read them.

        Raises:
            CorpusError: A sentence has more subwords than the model has positions.
        """
        pairs = self.pairs(split, epoch)
        model: Any = self.trainer and self.trainer.lightning_module
        positions = getattr(getattr(model, "config", None), "max_positions", None)
        for side in (pairs.source,) if split == "test" else (pairs.source, pairs.target):
            too_long = np.flatnonzero(side.sizes > (positions or np.inf))
            if len(too_long):
                raise CorpusError(
                    f"{len(too_long):,} of the {len(side):,} sentences of {side.prefix} have more "
                    f"subwords than the model has positions (`max_positions` = {positions}): the "
                    f"first is number {too_long[0] + 1} with {side.sizes[too_long[0]]}. Remove "
                    "these sentences, or use a model with more positions."
                )
        return pairs

    def train_dataloader(self) -> DataLoader[TranslationBatch]:
        """Return this rank's training batches, from the folder whose turn it is."""
        trainer: Any = self.trainer
        if trainer is None:
            return ResumableLoader(self._sampler(), self.num_workers)
        if trainer.overfit_batches:
            # Lightning overfits on batches in a fixed order.
            return self._fixed("train")
        former, restored, self._restored = trainer.train_dataloader, self._restored, None
        if isinstance(former, ResumableLoader):  # Lightning reloads
            epoch, position = former.sampler.place
        elif restored is not None and trainer.fit_loop.restarting:
            epoch, position = restored
        else:
            # Resuming at the end of an epoch, Lightning restores only its own progress.
            epoch, position = trainer.fit_loop.epoch_progress.current.processed, 0
        sampler = self._trainers_sampler(epoch)
        sampler.position = position
        loop = trainer.fit_loop.epoch_loop
        if isinstance(former, ResumableLoader) and loop.restarted_on_train_batch_end:
            # Resumed after the last batch of an epoch, Lightning resets its count of batches only
            # if it equals the length of an epoch, and the next epoch may have another length.
            loop.batch_progress.current.completed = sampler.epoch_length
        return ResumableLoader(sampler, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the position in it, which Lightning restores before the loader."""
        loader = None if self.trainer is None else self.trainer.train_dataloader
        if not isinstance(loader, ResumableLoader):
            return {}
        return {"epoch": loader.sampler.epoch, "position": loader.sampler.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make training begin at a saved epoch and position."""
        self._restored = state_dict["epoch"], state_dict["position"]

    def val_dataloader(self) -> DataLoader[TranslationBatch]:
        """Return the batches of ``valid``."""
        return self._fixed("valid")

    def test_dataloader(self) -> DataLoader[TranslationBatch]:
        """Return the batches of ``test``."""
        return self._fixed("test")

    def predict_dataloader(self) -> DataLoader[TranslationBatch]:
        """Return the batches of ``test``."""
        return self._fixed("test")

    def _trainers_sampler(self, epoch: int) -> TokenBatchSampler:
        trainer: Any = self.trainer
        sampler = self._sampler(
            epoch,
            num_replicas=trainer.world_size,
            rank=trainer.global_rank,
            one_epoch=trainer.reload_dataloaders_every_n_epochs == 1,
        )
        limit = trainer.limit_train_batches
        share = limit if isinstance(limit, int) else int(limit * len(sampler))
        sampler.epoch_length = min(share, len(sampler))
        return sampler

    def _sampler(self, epoch: int = 0, **options: Any) -> TokenBatchSampler:
        return TokenBatchSampler(
            self._fitting("train", epoch),
            max_tokens=self.max_tokens,
            seed=self.seed,
            epoch=epoch,
            **options,
        )

    def _fixed(self, split: str) -> DataLoader[TranslationBatch]:
        # A loader without its own generator draws from torch's: validation would change the dropout
        # of the training that follows.
        return DataLoader(
            FixedBatches(self._fitting(split), self.max_tokens),
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),
            worker_init_fn=enter_loader,
        )
