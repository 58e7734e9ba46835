"""What an installation without extras can do: answered by its own Python."""

import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import admin_init
from admin_init.callbacks.average_checkpoints import AverageCheckpoints
from admin_init.callbacks.divergence import DivergenceCheck
from admin_init.callbacks.fit_log import FitLog
from admin_init.callbacks.interruption import SaveWhenInterrupted
from admin_init.callbacks.random_state import RandomState
from admin_init.cli.main import COMMANDS, main

BATCHES = [torch.randn(2, 5, 16) for _ in range(3)]


class Net(pl.LightningModule):
    """A Post-LN encoder."""

    example_input_array = BATCHES[0]

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_nll", self(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def fit() -> dict[str, Any]:
    """Train with every callback of the package."""
    monitor = admin_init.StabilityMonitor(every_n_steps=1)
    callbacks = [
        admin_init.AdminInit(fold_on_end=True),
        monitor,
        AverageCheckpoints(),
        DivergenceCheck(),
        RandomState(),
        FitLog(),
        pl.callbacks.ModelCheckpoint(monitor="val_nll", filename="last"),
        SaveWhenInterrupted(["none"]),
    ]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir="fit",
        callbacks=callbacks,
        plugins=[admin_init.WholeCheckpointIO()],
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    model = Net()
    batches = DataLoader(BATCHES, batch_size=None)
    trainer.fit(model, batches, batches)
    omegas = [site.omega for site in admin_init.find_sites(model)]
    return {
        "logger": type(trainer.logger).__name__,
        "monitored": sorted(monitor.latest),
        "omegas": [float(omega.mean()) for omega in omegas if omega is not None],
        "files": sorted(path.name for path in Path("fit").rglob("*") if path.is_file()),
        "checkpoint": trainer.checkpoint_callback.best_model_path,
    }


def call(*arguments: str) -> list[Any]:
    """Call ``admin-init``; returns its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            return [ended.code, out.getvalue(), err.getvalue()]
    raise AssertionError("main always exits")


def refusal(work: Callable[[], object]) -> str:
    """Return the error that something ends in."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def answers(recipe: str) -> dict[str, Any]:
    """Do all of it, in the current folder."""
    from admin_init.measures.figures import draw_dependency
    from admin_init.translation.data.datamodule import TranslationDataModule
    from admin_init.translation.scoring import score
    from admin_init.translation.translate import Translator

    trained = fit()
    checkpoint = trained["checkpoint"]
    Path("lab.yaml").write_text("output: runs/lab\n")
    needs_extra = {
        "prepare": ["--destination", "data-bin"],
        "compare": ["--config", "lab.yaml"],
        "merge": ["--folders", "runs/lab", "--output", "runs/all"],
        "study": ["omegas"],
        "diagnose": ["--recipe", recipe, "--output", "runs/diagnosis"],
        "translate": ["--checkpoint", checkpoint],
        "convert": [checkpoint, "model.pt"],
        **{name: ["--config", recipe] for name in ("fit", "validate", "test", "predict")},
        "profile": ["--recipe", recipe, "--output", "profile.json"],
    }
    return {
        "from": admin_init.__file__,
        "public": [name for name in admin_init.__all__ if hasattr(admin_init, name)],
        "found": [name for name in ABSENT if importlib.util.find_spec(name)],
        "fit": trained,
        "help": {name: call(name, "--help") for name in COMMANDS},
        "overview": call("--help"),
        "version": call("--version"),
        "typo": call("transalte"),
        "profile": call("profile", "--model", "base_install:Net", "--output", "profile.json"),
        "fold": call("fold", checkpoint, "folded.ckpt", "--model", "base_install:Net"),
        "average": call("average", "--checkpoints", checkpoint, "--output", "mean.ckpt"),
        "commands": {name: call(name, *rest) for name, rest in needs_extra.items()},
        "classes": [
            refusal(lambda: TranslationDataModule("data-bin", "en", "de")),
            refusal(lambda: Translator(checkpoint)),
            refusal(lambda: score(["a"], ["a"])),
            refusal(lambda: draw_dependency({})),
            refusal(lambda: importlib.import_module("admin_init.huggingface")),
        ],
        "left": sorted(path.name for path in Path().iterdir()),
    }


ABSENT = (
    *("sacrebleu", "sentencepiece", "matplotlib", "fairseq", "transformers", "mtdata"),
    *("sacremoses", "subword_nmt", "hydra", "pytest", "psutil", "lightning"),
)

if __name__ == "__main__":
    Path("answers.json").write_text(json.dumps(answers(sys.argv[1])))
