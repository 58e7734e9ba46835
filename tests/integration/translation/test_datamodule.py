import os
import shutil
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from admin_init.errors import CorpusError
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.preparation.manifest import NAME
from admin_init.translation.preparation.prepare import prepare

PAIRS = [(" ".join("abcd"[: i % 4 + 1]), " ".join("efghi"[: i % 5 + 1])) for i in range(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    splits = {"train": PAIRS, "valid": PAIRS[:9], "test": PAIRS[9:20]}
    corpus = ParallelCorpus(source_lang="en", target_lang="de", splits=splits)
    prepare(corpus, tmp_path / "bin", vocabulary_size=40)
    return tmp_path / "bin"


def data(folder: Path | str, **changed: Any) -> TranslationDataModule:
    return TranslationDataModule(folder, "en", "de", **{"max_tokens": 60, **changed})


class Recorder(pl.LightningModule):
    """Notes the pairs it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[list[int]]] = {"train": [], "valid": [], "test": []}

    def training_step(self, batch: TranslationBatch, _: int) -> Tensor:
        self.seen["train"].append(batch.index.tolist())
        return self.weight * batch.target.sum()

    def validation_step(self, batch: TranslationBatch, _: int) -> None:
        self.seen["valid"].append(batch.index.tolist())

    def test_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        self.seen["test"].append(batch.index.tolist())

    def predict_step(self, batch: TranslationBatch, batch_idx: int) -> Tensor:
        return batch.index

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    return pl.Trainer(accelerator="cpu", num_sanity_val_steps=0, **quiet, **options)


def test_a_batch_spells_the_corpus(folder: Path) -> None:
    module = data(folder)
    for loader, pairs in [(module.train_dataloader(), PAIRS), (module.val_dataloader(), PAIRS[:9])]:
        for batch in loader:
            for row, i in enumerate(batch.index):
                source = module.source_dictionary.decode(batch.source[row])
                target = module.target_dictionary.decode(batch.target[row])
                decoded = module.tokenizer.decode(source), module.tokenizer.decode(target)
                assert decoded == pairs[i]
                assert batch.target_input[row, 0] == 2
    assert module.vocabulary_size == len(module.target_dictionary)


def test_fit_test_and_predict(folder: Path) -> None:
    model = Recorder()
    trainer(max_epochs=2).fit(model, data(folder))
    half = len(model.seen["train"]) // 2
    epochs = model.seen["train"][:half], model.seen["train"][half:]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(60))
    assert epochs[0] != epochs[1]
    number = len(model.seen["valid"]) // 2
    assert model.seen["valid"][:number] == model.seen["valid"][number:]
    assert sorted(chain.from_iterable(model.seen["valid"][:number])) == list(range(9))

    trainer().test(model, data(folder))
    predicted: Any = trainer().predict(model, data(folder))
    assert [index.tolist() for index in predicted] == model.seen["test"]
    assert sorted(chain.from_iterable(model.seen["test"])) == list(range(11))


@pytest.mark.parametrize(
    ("method", "side"), [("fit", "train"), ("validate", "valid"), ("test", "test")]
)
def test_what_a_model_has_no_positions_for_is_refused_at_once(
    folder: Path, method: str, side: str
) -> None:
    model, module = Recorder(), data(folder)
    pairs = module.pairs(side)
    longest = int(pairs.source.sizes.max())
    assert longest < pairs.target.sizes.max()
    run = getattr(trainer(max_epochs=1), method)
    model.config = SimpleNamespace(max_positions=longest)  # type: ignore[assignment]
    if method == "test":  # whose targets no model reads
        run(model, data(folder))
        assert model.seen.pop("test")
        model.config.max_positions -= 1
        long, positions = (pairs.source, longest - 1)
    else:
        long, positions = (pairs.target, longest)
    first, number = int(np.argmax(long.sizes > positions)), int((long.sizes > positions).sum())
    message = (
        rf"^{number} of the {len(pairs)} sentences of \S+/{side}\.en-de\.\w\w have .*"
        rf"`max_positions` = {positions}\): the first is number {first + 1} "
        rf"with {long.sizes[first]}\."
    )
    with pytest.raises(CorpusError, match=message):
        run(model, data(folder))
    assert not any(model.seen.values())


def test_the_seed_decides(folder: Path) -> None:
    runs = [Recorder() for _ in range(3)]
    for model, seed in zip(runs, [1, 1, 2], strict=True):
        pl.seed_everything(seed=runs.index(model))
        trainer(max_epochs=1).fit(model, data(folder, seed=seed))
    assert runs[0].seen["train"] == runs[1].seen["train"] != runs[2].seen["train"]


def test_a_second_fit_goes_on_with_the_next_epoch(folder: Path) -> None:
    twice, once = Recorder(), Recorder()
    fitting = trainer(max_epochs=1)
    fitting.fit(twice, data(folder))
    fitting.fit_loop.max_epochs = 2
    fitting.fit(twice, data(folder))
    trainer(max_epochs=2, reload_dataloaders_every_n_epochs=1).fit(once, data(folder))
    assert twice.seen["train"] == once.seen["train"]


@pytest.fixture
def other(folder: Path) -> Path:
    """A folder of other sentences and the same words."""
    other = folder.with_name("other")
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("train.*", NAME))
    for file in folder.glob("test.*"):
        shutil.copy(file, other / file.name.replace("test", "train"))
    return other


def both(folder: Path, other: Path) -> str:
    return f"{folder}{os.pathsep}{other}"


def test_several_folders_take_turns(folder: Path, other: Path) -> None:
    module = data(both(folder, other))
    assert [len(module.pairs("train", epoch)) for epoch in range(3)] == [60, 11, 60]
    assert len(module.pairs("valid", 1)) == 9
    assert module.hparams["data"] == both(folder, other)
    model = Recorder()
    trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(model, module)
    seen = [len(batch) for batch in model.seen["train"]]
    assert sum(seen) == 60 + 11 + 60
    assert sum(seen[: len(data(folder).train_dataloader())]) == 60  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "has 2 folders, .* --trainer.reload_dataloaders_every_n_epochs 1"),
        ({"reload_dataloaders_every_n_epochs": 2}, "trainer must have .*, but it is 2"),
        (
            {"reload_dataloaders_every_n_epochs": 1, "val_check_interval": 5},
            r"other has [1-4] training batches, .*`val_check_interval` \(5\)",
        ),
        (
            {"reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 0.2},
            r"other has 0 training batches, .*`limit_train_batches` \(0.2\)",
        ),
    ],
)
def test_a_trainer_that_several_folders_do_not_suit_is_refused(
    folder: Path, other: Path, options: dict[str, Any], error: str
) -> None:
    model = Recorder()
    with pytest.raises(CorpusError, match=error):
        trainer(max_epochs=1, **options).fit(model, data(both(folder, other)))
    assert not model.seen["train"]


def test_a_folder_that_does_not_belong_to_the_first_is_named(folder: Path, other: Path) -> None:
    def refused(error: str) -> None:
        model = Recorder()
        with pytest.raises(CorpusError, match=error):
            trainer(max_epochs=1, reload_dataloaders_every_n_epochs=1).fit(
                model, data(both(folder, other))
            )
        assert not model.seen["train"]

    dictionary = other / "dict.de.txt"
    first, second, *rest = dictionary.read_text().splitlines()
    dictionary.write_text("\n".join([second, first, *rest]) + "\n")
    refused(r"other/dict\.de\.txt has other tokens than .*bin/dict\.de\.txt")
    shutil.copy(folder / NAME, other)
    refused(r"other has changed since it was prepared: .*dict\.de\.txt")
    (other / NAME).unlink()
    shutil.copy(folder / "dict.de.txt", other)
    (other / "train.en-de.de.bin").unlink()
    refused(r"other/train\.en-de\.de cannot be read")
    shutil.rmtree(other)
    refused(r"other/dict\.en\.txt cannot be read")


def test_overfitting_repeats_the_same_batches(folder: Path) -> None:
    model = Recorder()
    trainer(max_epochs=3, overfit_batches=2).fit(model, data(folder))
    seen = model.seen["train"]
    assert seen[:2] * 3 == seen
    assert all(len(batch) > 1 for batch in seen)


def test_left_padding(folder: Path) -> None:
    batch = next(iter(data(folder, left_pad_source=True).train_dataloader()))
    assert (batch.source[:, -1] == 2).all()
    padding = (batch.source == 1).long()
    assert (padding.diff(dim=1) <= 0).all()


def test_references(folder: Path) -> None:
    module = data(folder)
    assert module.references("test") == [target for _, target in PAIRS[9:20]]
    with pytest.raises(CorpusError, match=r"no plain reference text train\.en-de\.de\.txt"):
        module.references("train")


def test_a_split_that_is_missing_or_damaged_is_named(folder: Path) -> None:
    path = folder / "valid.en-de.de.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorpusError, match=r"valid\.en-de\.de\.bin holds .* but its index"):
        data(folder).val_dataloader()
    path.unlink()
    with pytest.raises(CorpusError, match=r"valid\.en-de\.de cannot be read"):
        data(folder).val_dataloader()
    with pytest.raises(CorpusError, match=r"valid\.en-de\.de\.bin is missing or damaged"):
        trainer(max_epochs=1).fit(Recorder(), data(folder))
    with pytest.raises(CorpusError, match=r"dict\.fr\.txt cannot be read"):
        _ = TranslationDataModule(folder, "en", "fr").vocabulary_size
