"""Average, choose, test: a recipe's way from its last checkpoints to a score."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _helpers.command_line import Done, call

from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

RECIPE: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "logger": False,
        "callbacks": [
            {"class_path": "admin_init.callbacks.admin_init.AdminInit"},
            {
                "class_path": "admin_init.callbacks.average_checkpoints.AverageCheckpoints",
                "init_args": {"last": 2},
            },
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"dirpath": "run", "filename": "best", "monitor": "val_nll"},
            },
        ],
    },
    "model": {
        "transformer": {
            "dim": 16,
            "ffn_dim": 32,
            "heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "dropout": 0.0,
        },
        "optimization": {"learning_rate": 0.01, "warmup_steps": 10},
        "search": {"beam_size": 1, "max_len_a": 0, "max_len_b": 20},
    },
    "data": {"data": "bin", "source_lang": "en", "target_lang": "de", "max_tokens": 600},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data-bin, a recipe, and what its training has left."""
    folder = tmp_path_factory.mktemp("average")
    with contextlib.chdir(folder):
        prepare(CorpusConfig(train=300, valid=20, test=20).open(), "bin", vocabulary_size=300)
        Path("fit.yaml").write_text(yaml.safe_dump(RECIPE))
        done = call("fit", "--config", "fit.yaml")
        assert done.code == 0, done.err
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


def weights(name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(name, weights_only=True)["state_dict"]
    return found


def same(one: str, other: str) -> bool:
    ours, theirs = weights(one), weights(other)
    return all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_by_command_as_by_callback() -> None:
    steps = sorted(str(path) for path in Path("run").glob("step_*.ckpt"))
    assert len(steps) == 2
    listed = call("average", "--checkpoints", *steps, "--output", "listed.ckpt")
    assert listed.code == 0, listed.err
    assert listed.out.splitlines()[0].startswith("step_")
    assert "epoch 2, update" in listed.out
    assert listed.out.endswith("listed.ckpt: their average\n")
    # In the folder there are also averages, and the best, which is one of the two.
    found = call("average", "--folder", "run", "--last", "2", "--output", "found.ckpt")
    assert found.code == 0, found.err
    assert same("listed.ckpt", "run/average.ckpt")
    assert same("found.ckpt", "run/average.ckpt")
    assert not same("listed.ckpt", steps[0])


def test_the_average_folds() -> None:
    done = call("fold", "run/average.ckpt", "folded.ckpt")
    assert done.code == 0, done.err
    assert not any(name.endswith(".omega") for name in weights("folded.ckpt"))


def score(name: str) -> Done:
    done = call("test", "--config", "fit.yaml", "--ckpt_path", name)
    assert done.code == 0, done.err
    return done


def test_both_scores_once(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    shown = score("run/chosen.ckpt").out
    assert "test_bleu " in shown
    assert "test_bleu_tokenised " in shown
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("sacreBLEU ") and "tok:13a" in message for message in messages)
    tokenised = "tokenized BLEU, comparable only with fairseq-generate's: BLEU4 = "
    assert any(message.startswith(tokenised) for message in messages)

    (entry,) = json.loads(Path("run/test.json").read_text())
    assert (entry["checkpoint"], entry["data"]) == ("chosen.ckpt", "bin")
    assert "tok:13a" in entry["signature"]
    assert entry["tokenised_bleu"].startswith("BLEU4 = ")
    # The same checkpoint again is no choice.
    score("run/chosen.ckpt")
    assert json.loads(Path("run/test.json").read_text()) == [entry]
    assert not [warning for warning in recwarn if "scored before" in str(warning.message)]

    with pytest.warns(
        UserWarning, match=r"test set of bin has been scored before with chosen\.ckpt"
    ):
        score(str(min(Path("run").glob("step_*.ckpt"))))
    assert len(json.loads(Path("run/test.json").read_text())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "o.ckpt"], "give either `--checkpoints FILE ...` or `--folder FOLDER`"),
        (["--output", "o.ckpt", "--folder", "run", "--checkpoints", "a"], "give either"),
        (["--output", "o.ckpt", "--folder", "bin"], "no checkpoint to average in bin"),
        (["--output", "o.ckpt", "--folder", "run", "--last", "0"], "must be at least 1, but is 0"),
        (["--output", "o.ckpt", "--checkpoints", "none.ckpt"], "no checkpoint at none.ckpt"),
    ],
)
def test_what_cannot_be_averaged(arguments: list[str], message: str) -> None:
    done = call("average", *arguments)
    assert done.code == 2
    assert done.err.startswith("admin-init average: ")
    assert message in done.err
    assert not Path("o.ckpt").exists()
