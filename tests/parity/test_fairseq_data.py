"""Data-bins: fairseq-preprocess's read by us, ours read by fairseq, token for token."""

import os
import random
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.data import Dictionary as FairseqDictionary
from fairseq.data.indexed_dataset import (
    MMapIndexedDataset,
    MMapIndexedDatasetBuilder,
    best_fitting_int_dtype,
)
from fairseq.tasks.translation import (
    TranslationConfig,
    TranslationTask,
    load_langpair_dataset,
)
from fairseq_cli import preprocess

from admin_init.errors import CorpusError
from admin_init.nn import TransformerConfig
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.databin import IndexedDataset, IndexedDatasetBuilder
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.module import TranslationModule

LINES = {"train": 200, "valid": 20, "test": 20}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some parallel text, tokenized; the test set has words that the dictionary does not."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(1)
    for split, lines in LINES.items():
        words = 60 if split == "test" else 40
        for lang in ("en", "de"):
            sentences = [
                " ".join(f"{lang}{rng.randrange(words)}" for _ in range(rng.randint(1, 12)))
                for _ in range(lines)
            ]
            (folder / f"{split}.{lang}").write_text("\n".join(sentences) + "\n")
    return folder


@pytest.fixture(scope="module")
def data_bin(texts: Path) -> Path:
    """What fairseq-preprocess makes of it."""
    folder = texts / "data-bin"
    arguments = ["--source-lang", "en", "--target-lang", "de", "--joined-dictionary"]
    for split, name in {"train": "train", "valid": "valid", "test": "test"}.items():
        arguments += [f"--{split}pref", str(texts / name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["preprocess", *arguments, "--destdir", str(folder)])
        preprocess.cli_main()
    return folder


def test_we_read_what_fairseq_preprocess_writes(texts: Path, data_bin: Path) -> None:
    dictionary = Dictionary.load(data_bin / "dict.en.txt")
    theirs = FairseqDictionary.load(str(data_bin / "dict.en.txt"))
    assert len(dictionary) == len(theirs)
    assert len(dictionary) % 8 == 0
    assert [dictionary[i] for i in range(len(dictionary))] == theirs.symbols
    for split in LINES:
        for lang in ("en", "de"):
            sentences = IndexedDataset(data_bin / f"{split}.en-de.{lang}")
            lines = (texts / f"{split}.{lang}").read_text().splitlines()
            expected = MMapIndexedDataset(str(data_bin / f"{split}.en-de.{lang}"))
            assert len(sentences) == len(lines) == len(expected)
            for ours, line, other in zip(sentences, lines, expected, strict=True):
                assert ours.tolist() == other.tolist()
                assert ours.tolist() == theirs.encode_line(line, add_if_not_exist=False).tolist()


@pytest.fixture
def in_parts(data_bin: Path, tmp_path: Path) -> Path:
    """A data-bin whose training data are in three parts, one of them named for the other way."""
    folder = tmp_path / "in-parts"
    shutil.copytree(data_bin, folder)
    for number, split, pair in ((1, "valid", "de-en"), (2, "test", "en-de"), (4, "valid", "en-de")):
        for lang in ("en", "de"):
            for kind in ("bin", "idx"):
                shutil.copy(
                    data_bin / f"{split}.en-de.{lang}.{kind}",
                    folder / f"train{number}.{pair}.{lang}.{kind}",
                )
    return folder


@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "en")])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_pairs_are_those_that_fairseq_loads(
    in_parts: Path, source: str, target: str, split: str
) -> None:
    dictionary = FairseqDictionary.load(str(in_parts / "dict.en.txt"))
    expected = load_langpair_dataset(
        str(in_parts),
        split,
        source,
        dictionary,
        target,
        dictionary,
        combine=split == "train",
        dataset_impl="mmap",
        upsample_primary=1,
        left_pad_source=True,
        left_pad_target=False,
        max_source_positions=1024,
        max_target_positions=1024,
    )
    pairs = TranslationDataModule(in_parts, source, target).pairs(split)
    assert len(pairs) == len(expected) == (240 if split == "train" else 20)
    for i in range(len(pairs)):
        assert pairs.source[i].tolist() == expected[i]["source"].tolist()
        assert pairs.target[i].tolist() == expected[i]["target"].tolist()
    assert pairs.source.sizes.tolist() == expected.src_sizes.tolist()


def test_parts_that_changed_are_seen_when_a_run_resumes(in_parts: Path) -> None:
    def loader() -> Any:
        return TranslationDataModule(in_parts, "en", "de", max_tokens=100).train_dataloader()

    whole = [batch.source.tolist() for batch in loader()]
    first = loader()
    begun = [batch.source.tolist() for batch in islice(first, 5)]
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert len(begun) < len(whole)
    rest = [batch.source.tolist() for batch in resumed]
    assert begun + rest == whole
    for kind in ("bin", "idx"):  # The parts swap their sentences.
        one, two = (in_parts / f"train{i}.{p}.en.{kind}" for i, p in ((1, "de-en"), (2, "en-de")))
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
    with pytest.raises(CorpusError, match=r"train\.en-de\.en \+ .*train1\.de-en\.en \+ .*train2"):
        loader().load_state_dict(first.state_dict())


def test_a_part_that_is_not_whole_is_named(in_parts: Path) -> None:
    (in_parts / "train2.en-de.de.bin").unlink()
    with pytest.raises(CorpusError, match=r"train2\.en-de\.de cannot be read"):
        TranslationDataModule(in_parts, "en", "de").pairs("train")


class Pairs(pl.LightningModule):
    """Learns nothing, and notes the pairs of every epoch."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[tuple[list[int], list[int]]]] = {}

    def training_step(self, batch: TranslationBatch, _: int) -> None:
        for source, target in zip(batch.source, batch.target, strict=True):
            pair = (source[source != 1].tolist(), target[target != 1].tolist())
            self.seen.setdefault(self.current_epoch, []).append(pair)

    def configure_optimizers(self) -> None:
        return None


def test_several_data_bins_take_turns_as_in_fairseq(
    in_parts: Path, data_bin: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned"
    shutil.copytree(data_bin, turned)
    for file in turned.glob("train.*"):
        file.unlink()
    for file in turned.glob("valid.*"):
        shutil.copy(file, turned / file.name.replace("valid.en-de", "train.de-en"))
    data = os.pathsep.join(map(str, (in_parts, data_bin, turned)))
    ours = Pairs()
    trainer = pl.Trainer(
        max_epochs=4,
        reload_dataloaders_every_n_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ours, TranslationDataModule(data, "en", "de", max_tokens=100))
    theirs = TranslationTask.setup_task(
        TranslationConfig(
            data=data,
            source_lang="en",
            target_lang="de",
            train_subset="train",
            upsample_primary=1,
            dataset_impl="mmap",
        )
    )
    for epoch in range(4):
        theirs.load_dataset("train", epoch=epoch + 1, combine=True)
        pairs = [(p["source"].tolist(), p["target"].tolist()) for p in theirs.dataset("train")]
        assert len(pairs) == [240, 200, 20, 240][epoch]
        assert sorted(ours.seen[epoch]) == sorted(pairs)


@pytest.mark.parametrize("fairseq", [None, FairseqConfig()])
def test_either_engine_trains_on_it(data_bin: Path, fairseq: FairseqConfig | None) -> None:
    data = TranslationDataModule(data_bin, "en", "de", max_tokens=100, left_pad_source=True)
    shape = TransformerConfig(dim=16, ffn_dim=16, heads=2, encoder_layers=1, decoder_layers=1)
    module = TranslationModule(shape, fairseq=fairseq)
    trainer = pl.Trainer(
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=2,
        val_check_interval=3,
    )
    trainer.fit(module, data)
    assert module.config.vocabulary_size == data.vocabulary_size
    assert trainer.callback_metrics["val_nll"] < 6


@pytest.mark.parametrize("vocabulary_size", [100, 65_499, 65_500, 70_000])
def test_fairseq_reads_what_we_write(tmp_path: Path, vocabulary_size: int) -> None:
    rng = np.random.default_rng(1)
    sentences = [
        rng.integers(4, vocabulary_size, size=rng.integers(1, 9)).tolist() for _ in range(50)
    ]
    with IndexedDatasetBuilder(tmp_path / "ours", vocabulary_size) as builder:
        builder.extend(np.concatenate(sentences), np.array([*map(len, sentences)]))
    read = MMapIndexedDataset(str(tmp_path / "ours"))
    assert [sentence.tolist() for sentence in read] == sentences

    # And it is the very file that fairseq writes.
    theirs = MMapIndexedDatasetBuilder(
        str(tmp_path / "theirs.bin"), dtype=best_fitting_int_dtype(vocabulary_size)
    )
    for sentence in sentences:
        theirs.add_item(torch.tensor(sentence))
    theirs.finalize(str(tmp_path / "theirs.idx"))
    for ending in ("bin", "idx"):
        ours = (tmp_path / f"ours.{ending}").read_bytes()
        assert ours == (tmp_path / f"theirs.{ending}").read_bytes()


@pytest.mark.parametrize("fairseq", [None, FairseqConfig()])
def test_the_loss_is_fairseqs(data_bin: Path, fairseq: FairseqConfig | None) -> None:
    # fairseq spreads the mass over the V - 1 other tokens, torch over all V.
    data = TranslationDataModule(data_bin, "en", "de", max_tokens=100)
    batch = next(iter(data.val_dataloader()))
    size = data.vocabulary_size
    shape = TransformerConfig(
        vocabulary_size=size, dim=16, ffn_dim=16, heads=2, encoder_layers=1, decoder_layers=1
    )
    module = TranslationModule(
        shape, label_smoothing=0.1 * size / (size - 1), fairseq=fairseq
    ).eval()
    log_probs = module(batch.source, batch.target_input).log_softmax(dim=-1)
    expected, nll = label_smoothed_nll_loss(
        log_probs.flatten(0, 1), batch.target.flatten(), 0.1, ignore_index=1
    )
    tokens = batch.target.ne(1).sum()
    torch.testing.assert_close(module.training_step(batch, 0), expected / tokens)
    torch.testing.assert_close(module.nll(batch), nll / tokens)
