"""A training run of seconds, with dropout, that saves a checkpoint every few steps."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

LAST_STEP = 40
SAVED_EVERY = 4

RECIPE: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_steps": LAST_STEP,
        "val_check_interval": 6,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "admin_init.callbacks.admin_init.AdminInit"},
            {"class_path": "admin_init.callbacks.random_state.RandomState"},
            {
                "class_path": "ModelCheckpoint",
                "init_args": {
                    "dirpath": "run",
                    "filename": "last",
                    "every_n_train_steps": SAVED_EVERY,
                    "enable_version_counter": False,
                },
            },
        ],
    },
    "model": {
        "transformer": {
            "dim": 16,
            "ffn_dim": 32,
            "heads": 2,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "dropout": 0.3,
        },
        "optimization": {"learning_rate": 0.01, "warmup_steps": 10},
    },
    "data": {"data": "bin", "source_lang": "en", "target_lang": "de", "max_tokens": 300},
}
LAST = Path("run/last.ckpt")


def write_recipe(*, folder: str = "run", **trainer: Any) -> None:
    """Prepare a corpus in `bin` where there is none, and write `fit.yaml`.

    Args:
        folder: Where checkpoints and losses are written.
        trainer: Other options of the trainer.
    """
    if not Path("bin").exists():
        prepare(CorpusConfig(train=200, valid=10, test=10).open(), "bin", vocabulary_size=300)
    recipe = json.loads(json.dumps(RECIPE).replace('"run"', json.dumps(folder)))
    recipe["trainer"] |= trainer
    recipe["trainer"]["logger"] = {
        "class_path": "CSVLogger",
        "init_args": {"save_dir": folder, "name": "logs"},
    }
    Path("fit.yaml").write_text(yaml.safe_dump(recipe))


def fit(version: str, *options: str, last: str = str(LAST)) -> list[str]:
    """The command, which goes on from the last checkpoint where there is one."""
    resume = ["--ckpt_path", last] if Path(last).exists() else []
    name = ["--trainer.logger.init_args.version", version]
    return ["fit", "--config", "fit.yaml", *name, *resume, *options]


def losses(version: str, folder: str = "run") -> dict[int, str]:
    """The training loss of each step, as it was written, to the last digit."""
    if not Path(f"{folder}/logs/{version}/metrics.csv").exists():
        return {}  # killed after its last step, and repeated
    with Path(f"{folder}/logs/{version}/metrics.csv").open() as file:
        return {
            int(row["step"]): row["train_loss"] for row in csv.DictReader(file) if row["train_loss"]
        }


def weights(path: Path) -> dict[str, Any]:
    """The weights of a checkpoint, as lists: equal where every bit is."""
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == LAST_STEP
    return {name: weight.tolist() for name, weight in saved["state_dict"].items()}
