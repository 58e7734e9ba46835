"""A run that resumes sees the batches, and draws the dropout, that it would have."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.forked import together
from torch import Tensor

from admin_init.callbacks.random_state import RandomState
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.databin import IndexedDataset, IndexedDatasetBuilder
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.preparation.manifest import NAME
from admin_init.translation.preparation.prepare import prepare

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*suggested max number of worker"),
]


# The indices of every batch, and its loss to the last bit.
Seen = list[list[Any]]


class Model(pl.LightningModule):
    """Bag of words with dropout; notes every batch with its loss, to the last bit."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = torch.nn.Embedding(64, 8)
            self.out = torch.nn.Linear(8, 64)
        self.seen: Seen = []

    def forward(self, batch: TranslationBatch) -> Tensor:
        states = torch.dropout(self.embed(batch.source), 0.5, self.training).mean(1)
        return torch.nn.functional.cross_entropy(self.out(states), batch.target[:, 0])

    def training_step(self, batch: TranslationBatch, _: int) -> Tensor:
        loss: Tensor = self(batch)
        self.seen.append([batch.index.tolist(), float(loss.detach()).hex()])
        return loss

    def validation_step(self, batch: TranslationBatch, _: int) -> None:
        self(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(pl.Callback):
    """Saves wherever ModelCheckpoint may."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, int]] = []

    def save(self, trainer: pl.Trainer, where: str) -> None:
        steps = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        path = f"{where}-{steps}.ckpt"
        self.saved.append((path, steps))
        trainer.save_checkpoint(path)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.save(trainer, "batch")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.save(trainer, "epoch")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, "validation")


def run(
    folder: Path | str,
    *,
    seed: int,
    num_workers: int = 0,
    ckpt_path: str | None = None,
    save: SaveEverywhere | None = None,
    **options: Any,
) -> tuple[pl.Trainer, Seen]:
    random.seed(seed)
    torch.manual_seed(seed)
    model = Model()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[RandomState(), *([save] if save else [])],
        **options,
    )
    data = TranslationDataModule(folder, "en", "de", max_tokens=90, num_workers=num_workers)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer, model.seen


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices("abcdefgh", k=rng.randint(1, 9)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    pairs = [(sentence(rng), sentence(rng)) for _ in range(60)]
    corpus = ParallelCorpus(
        source_lang="en", target_lang="de", splits={"train": pairs, "valid": pairs[:9]}
    )
    folder = tmp_path_factory.mktemp("data") / "bin"
    prepare(corpus, folder, vocabulary_size=40)
    return folder


@pytest.fixture(scope="module")
def batches(folder: Path) -> int:
    number = len(TranslationDataModule(folder, "en", "de", max_tokens=90).train_dataloader())
    assert number >= 6
    return number


@pytest.fixture(scope="module")
def two(folder: Path) -> str:
    """The folder, and one with fewer batches, which take turns."""
    other = folder.with_name("other")
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns(NAME))
    for lang in ("en", "de"):
        sentences = IndexedDataset(folder / f"train.en-de.{lang}")
        with IndexedDatasetBuilder(other / f"train.en-de.{lang}", 40) as builder:
            for i in range(40, 60):
                builder.extend(sentences[i].numpy(), sentences.sizes[i : i + 1])
    return f"{folder}{os.pathsep}{other}"


def resumes_exactly(folder: Path | str, options: dict[str, Any]) -> None:
    save = SaveEverywhere()
    _, undisturbed = run(folder, seed=1, save=save, **options)
    assert len(save.saved) > len(undisturbed)
    for path, steps in save.saved:
        torch.load(path, weights_only=True)
        _, resumed = run(folder, seed=2, ckpt_path=path, **options)
        assert resumed == undisturbed[steps:], path


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3, "limit_train_batches": 5},
        {"max_steps": 13},
        {"max_steps": 13, "limit_val_batches": 0},
        {"max_epochs": 3, "val_check_interval": 2},
        {"max_steps": 13, "val_check_interval": 4, "check_val_every_n_epoch": None},
    ],
    ids=str,
)
def test_every_checkpoint_of_two_folders_resumes_exactly(
    two: str, batches: int, options: dict[str, Any]
) -> None:
    assert batches == 8  # and 3 of the other
    resumes_exactly(two, {**options, "reload_dataloaders_every_n_epochs": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 3},
        {"steps": 2.5},
        {"epochs": 3, "limit_train_batches": 3},
        {"steps": 1.5, "limit_train_batches": 0.5},
        {"epochs": 2, "val_check_interval": 3},
        {"steps": 2.5, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"steps": 2.5, "limit_val_batches": 0},
    ],
    ids=str,
)
def test_every_checkpoint_resumes_exactly(
    folder: Path, batches: int, options: dict[str, Any]
) -> None:
    options = dict(options)
    if "steps" in options:
        options["max_steps"] = int(options.pop("steps") * batches)
    else:
        options["max_epochs"] = options.pop("epochs")
    resumes_exactly(folder, options)


def test_without_the_random_state_the_dropout_would_be_another(folder: Path, batches: int) -> None:
    save = SaveEverywhere()
    _, undisturbed = run(folder, seed=1, save=save, max_epochs=1)
    checkpoint = torch.load("batch-2.ckpt", weights_only=True)
    checkpoint["callbacks"].clear()
    torch.save(checkpoint, "batch-2.ckpt")
    _, resumed = run(folder, seed=2, ckpt_path="batch-2.ckpt", max_epochs=1)
    assert [index for index, _ in resumed] == [index for index, _ in undisturbed[2:]]
    assert resumed[0] != undisturbed[2]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_a_finished_run_is_prolonged_exactly(
    folder: Path, batches: int, before: int, after: int
) -> None:
    _, undisturbed = run(folder, seed=1, max_steps=2 * batches + 1)
    trainer, first = run(folder, seed=1, num_workers=before, max_steps=batches + 2)
    trainer.save_checkpoint("end.ckpt")
    _, second = run(
        folder, seed=2, num_workers=after, max_steps=2 * batches + 1, ckpt_path="end.ckpt"
    )
    assert first + second == undisturbed


def in_new_processes(*calls: dict[str, Any], ranks: int = 1) -> list[list[Seen]]:
    """Do the runs, one after another; return what every rank of each has seen."""
    together(do, calls, ranks=ranks)
    return [
        [json.loads(path.read_text()) for path in sorted(Path().glob(f"seen-{i}-*.json"))]
        for i in range(len(calls))
    ]


def do(calls: tuple[dict[str, Any], ...]) -> None:
    for i, call in enumerate(calls):
        run(**{**call, "save": Write(f"seen-{i}", call["seed"], call.get("save", False))})


def test_a_new_process_goes_on_exactly(folder: Path, batches: int) -> None:
    save = SaveEverywhere()
    _, undisturbed = run(folder, seed=1, max_epochs=2, save=save)
    same = {"folder": str(folder), "seed": 2, "max_epochs": 2}
    resumed = in_new_processes(
        {**same, "num_workers": 0, "ckpt_path": "batch-3.ckpt"},
        {**same, "num_workers": 2, "ckpt_path": "batch-3.ckpt"},
        {**same, "num_workers": 2, "ckpt_path": f"epoch-{batches}.ckpt"},
    )
    assert resumed == [[undisturbed[3:]], [undisturbed[3:]], [undisturbed[batches:]]]


def test_ranks_get_their_own_batches_and_resume_exactly(folder: Path, batches: int) -> None:
    parallel = {
        "folder": str(folder),
        "strategy": "ddp",
        "devices": 2,
        "max_epochs": 2,
        "limit_val_batches": 0,
    }
    (undisturbed,) = in_new_processes({**parallel, "seed": 1, "save": True}, ranks=2)
    per_epoch = batches // 2
    for epoch in range(2):
        part = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        used = [i for rank in undisturbed for index, _ in rank[part] for i in index]
        assert len(set(used)) == len(used)
        assert batches % 2 or sorted(used) == list(range(60))
    assert [len(rank) for rank in undisturbed] == [2 * per_epoch] * 2
    (resumed,) = in_new_processes({**parallel, "seed": 2, "ckpt_path": "batch-2.ckpt"}, ranks=2)
    assert resumed == [rank[2:] for rank in undisturbed]


def test_ranks_take_turns_with_folders_and_resume_exactly(two: str) -> None:
    parallel = {
        "folder": two,
        "strategy": "ddp",
        "devices": 2,
        "max_epochs": 3,
        "reload_dataloaders_every_n_epochs": 1,
    }
    (undisturbed,) = in_new_processes({**parallel, "seed": 1, "save": True}, ranks=2)
    assert [len(rank) for rank in undisturbed] == [4 + 1 + 4] * 2
    saved = [(path.name, int(path.stem.partition("-")[2])) for path in Path().glob("*.ckpt")]
    assert len(saved) == 9 + 3 + 3
    saved.remove(("epoch-9.ckpt", 9))  # nothing is left of the run
    resumed = in_new_processes(
        *({**parallel, "seed": 2, "ckpt_path": name} for name, _ in saved), ranks=2
    )
    for (name, steps), ranks in zip(saved, resumed, strict=True):
        assert ranks == [rank[steps:] for rank in undisturbed], name


class Write(SaveEverywhere):
    """Writes what this rank has seen, and saves if it is asked to."""

    def __init__(self, name: str, seed: int, saves: bool) -> None:
        super().__init__()
        self.name, self.seed, self.saves = name, seed, saves

    def save(self, *arguments: Any) -> None:
        if self.saves:
            super().save(*arguments)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every rank draws numbers of its own.
        torch.manual_seed(self.seed + 100 * trainer.global_rank)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        Path(f"{self.name}-{trainer.global_rank}.json").write_text(json.dumps(module.seen))
