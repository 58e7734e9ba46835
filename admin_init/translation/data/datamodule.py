"""The batches of a data-bin, for Lightning."""

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
    """Loads a folder that ``admin-init prepare`` or fairseq-preprocess has made.

    Training batches come in an order that depends on the seed and the epoch; every rank gets its
    own. A run that resumes from a checkpoint, in the middle of an epoch too, gets the batches that
    it would have got. Validation and test batches come in a fixed order.

    Several folders take turns, as in fairseq: each epoch trains on the next of them. All else comes
    from the first. They need a trainer with ``reload_dataloaders_every_n_epochs=1``.

    Args:
        data: The folder with ``dict.*.txt`` and ``train.*.bin``, see :meth:`pairs`; or several,
            joined by ``:`` (``os.pathsep``).
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
        # A checkpoint remembers them, as primitives: `admin-init translate` needs the subwords.
        self.save_hyperparameters(
            {"data": str(data), "source_lang": source_lang, "target_lang": target_lang}
        )
        self.max_tokens = max_tokens
        self.left_pad_source = left_pad_source
        self.num_workers = num_workers
        self.seed = seed
        self._place: tuple[int, int] | None = None

    def prepare_data(self) -> None:
        """Sees that all files are what they were; those of fairseq, which left no sums, may differ.

        Raises:
            CorpusError: A file of a folder is missing or damaged, or its dictionaries are not those
                of the first.
        """
        for folder in self.folders:
            if (folder / NAME).exists():
                damages = Manifest.load(folder).damages(folder)
                if damages:
                    raise CorpusError(
                        f"{folder} is not what was prepared: {'; '.join(damages)}. Prepare the "
                        "corpus anew."
                    )
        for folder in self.folders[1:]:
            for lang, first in (
                (self.source_lang, self.source_dictionary),
                (self.target_lang, self.target_dictionary),
            ):
                path = folder / f"dict.{lang}.txt"
                if list(Dictionary.load(path)) != list(first):
                    raise CorpusError(
                        f"{path} has other tokens than {self.folder / path.name}: the ids of its "
                        "sentences would stand for other words. Prepare it anew with the "
                        "dictionaries of the first folder."
                    )

    def setup(self, stage: str) -> None:
        """See before the training that every folder's turn can come.

        Raises:
            CorpusError: A folder has no training data, or too few for the trainer; or the trainer
                would not turn to the next.
        """
        trainer: Any = self.trainer
        if len(self.folders) == 1 or trainer is None or stage != "fit":
            return
        if trainer.overfit_batches or trainer.limit_train_batches == 0:
            return
        if trainer.reload_dataloaders_every_n_epochs != 1:
            raise CorpusError(
                f"`data` has {len(self.folders)} folders, one an epoch, which needs "
                "`reload_dataloaders_every_n_epochs=1` of the trainer, but it is "
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
                    f"{folder} has {batches} training batches, fewer than `limit_train_batches` "
                    f"({trainer.limit_train_batches}) or `val_check_interval` ({every}) needs. "
                    "Change these, or lower `max_tokens`."
                )

    def pairs(self, split: str, epoch: int = 0) -> ParallelDataset:
        """Open a split, such as ``train``.

        As in fairseq, ``train`` goes on in ``train1``, ``train2``, ... where the folder has them,
        and a file may be named for either direction: that of ``en-de`` also serves ``de-en``.

        Args:
            split: Its name.
            epoch: Of several folders, ``train`` comes from the one whose turn it is in this epoch,
                counted from 0.

        Raises:
            CorpusError: The folder does not have it, or it is damaged.
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
        """Read the plain translations of a split other than ``train``, in its order.

        Raises:
            CorpusError: The folder does not have them.
        """
        name = f"{self._prefix(self.folder, split).name}.{self.target_lang}.txt"
        try:
            text = (self.folder / name).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"{self.folder} has no plain reference text {name} ({error}). Put one there, a "
                "line a sentence, or prepare the corpus with `admin-init prepare`."
            ) from error
        return text.removesuffix("\n").split("\n")

    def _fitting(self, split: str, epoch: int = 0) -> ParallelDataset:
        """Open a split for the trainer's model, which must have a position for every subword.

        Targets of ``test`` are compared with translations, and may be longer.

        Raises:
            CorpusError: It has not.
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
                    f"first is number {too_long[0] + 1} with {side.sizes[too_long[0]]}. Leave them "
                    "out, or use a model with more positions."
                )
        return pairs

    def train_dataloader(self) -> DataLoader[TranslationBatch]:
        """Return this rank's training batches, those of the epoch if there are several folders.

        Without a trainer, they are of the first folder.
        """
        trainer: Any = self.trainer
        if trainer is None:
            return ResumableLoader(self._sampler(), self.num_workers)
        if trainer.overfit_batches:
            # Lightning overfits batches that come in a fixed order.
            return self._fixed("train")
        former, place, self._place = trainer.train_dataloader, self._place, None
        if isinstance(former, ResumableLoader):  # Lightning reloads
            epoch, position = former.sampler.place
        elif place is not None and trainer.fit_loop.restarting:
            epoch, position = place
        else:
            # Where a run resumes at the end of an epoch, Lightning restores its own progress only.
            epoch, position = trainer.fit_loop.epoch_progress.current.processed, 0
        sampler = self._trainers_sampler(epoch)
        sampler.position = position
        loop = trainer.fit_loop.epoch_loop
        if isinstance(former, ResumableLoader) and loop.restarted_on_train_batch_end:
            # Resumed after the last batch of an epoch, Lightning begins to count anew where it has
            # counted as many batches as an epoch has, by now the next one.
            loop.batch_progress.current.completed = sampler.epoch_length
        return ResumableLoader(sampler, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the position in it, if it is trained on.

        The loader has them too, but Lightning asks how long an epoch is before it restores that.
        """
        loader = None if self.trainer is None else self.trainer.train_dataloader
        if not isinstance(loader, ResumableLoader):
            return {}
        return {"epoch": loader.sampler.epoch, "position": loader.sampler.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the training begin at a place."""
        self._place = state_dict["epoch"], state_dict["position"]

    def val_dataloader(self) -> DataLoader[TranslationBatch]:
        """Return the batches of ``valid``."""
        return self._fixed("valid")

    def test_dataloader(self) -> DataLoader[TranslationBatch]:
        """Returns the batches of ``test``."""
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
        # Without a generator of its own a loader draws from torch's, and the validation would
        # change the dropout of the training after it.
        return DataLoader(
            FixedBatches(self._fitting(split), self.max_tokens),
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),
            worker_init_fn=enter_loader,
        )
