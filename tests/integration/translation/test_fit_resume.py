"""`admin-init fit`, killed and resumed, goes on with the losses that it would have had."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _helpers.command_line import call, kill_at

from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

RECIPE: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 5,
        "val_check_interval": 6,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "logs"}},
        "callbacks": [
            {"class_path": "admin_init.callbacks.admin_init.AdminInit"},
            {"class_path": "admin_init.callbacks.random_state.RandomState"},
            {
                "class_path": "ModelCheckpoint",
                # In the middle of an epoch, and not where it validates.
                "init_args": {"filename": "{step}", "every_n_train_steps": 19, "save_top_k": -1},
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
VERSION = "--trainer.logger.init_args.version"


def losses(version: str) -> dict[int, str]:
    """The training loss of each step, as it was written, to the last digit."""
    with Path(f"logs/{version}/metrics.csv").open() as file:
        return {
            int(row["step"]): row["train_loss"] for row in csv.DictReader(file) if row["train_loss"]
        }


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_killed_fit_resumes_bit_by_bit() -> None:
    prepare(CorpusConfig(train=200, valid=10, test=10).open(), "bin", vocabulary_size=300)
    Path("fit.yaml").write_text(yaml.safe_dump(RECIPE))
    fit = ("fit", "--config", "fit.yaml", VERSION)

    checkpoint = Path("logs/killed/checkpoints/step=19.ckpt")
    kill_at(checkpoint, *fit, "killed")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 19
    assert not Path("logs/killed/checkpoints/step=57.ckpt").exists()

    assert call(*fit, "undisturbed").code == 0
    undisturbed = losses("undisturbed")
    assert list(undisturbed) == list(range(len(undisturbed)))
    assert len(undisturbed) > 57
    # Another seed, which must not matter.
    resume = ("--seed_everything", "2", "--ckpt_path", str(checkpoint))
    assert call(*fit, "resumed", *resume).code == 0
    assert losses("resumed") == {s: loss for s, loss in undisturbed.items() if s >= 19}

    profiles = [
        torch.load(f"logs/{version}/checkpoints/step=57.ckpt", weights_only=True)["callbacks"]
        for version in ("undisturbed", "resumed")
    ]
    assert profiles[0]["AdminInit"] == profiles[1]["AdminInit"]
    assert profiles[0]["AdminInit"]["profile"]["sites"][1]["omega"] > 1
    assert not Path("logs/resumed/checkpoints/admin_profile.json").exists()


def test_without_the_random_state_it_would_not() -> None:
    """So that the test above can fail: its dropout does matter."""
    prepare(CorpusConfig(train=200, valid=10, test=10).open(), "bin", vocabulary_size=300)
    Path("fit.yaml").write_text(yaml.safe_dump(RECIPE))
    fit = ("fit", "--config", "fit.yaml", "--trainer.max_steps", "21", VERSION)
    assert call(*fit, "first").code == 0
    saved = torch.load("logs/first/checkpoints/step=19.ckpt", weights_only=True)
    del saved["callbacks"]["RandomState"]
    torch.save(saved, "other.ckpt")
    assert call(*fit, "second", "--seed_everything", "2", "--ckpt_path", "other.ckpt").code == 0
    assert losses("first").keys() > losses("second").keys() == {19, 20}
    assert losses("second")[19] != losses("first")[19]
