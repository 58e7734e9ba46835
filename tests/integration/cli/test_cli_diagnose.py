"""`admin-init diagnose`, of a recipe and of what it trained."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _helpers.command_line import call

from admin_init import AdminProfile
from admin_init.lab.diagnosis.subject import load_subject
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

RECIPE: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 4,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "logger": False,
        "callbacks": [
            {"class_path": "admin_init.callbacks.admin_init.AdminInit"},
            {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "run", "filename": "end"}},
        ],
    },
    "model": {
        "transformer": {
            "dim": 16,
            "ffn_dim": 32,
            "heads": 2,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "residual": "admin",
        },
        "optimization": {"learning_rate": 0.01, "warmup_steps": 0},
    },
    "data": {"data": "bin", "source_lang": "en", "target_lang": "de", "max_tokens": 600},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data-bin, recipes, and a checkpoint."""
    folder = tmp_path_factory.mktemp("diagnose")
    with contextlib.chdir(folder):
        prepare(CorpusConfig(train=300, valid=20, test=20).open(), "bin", vocabulary_size=300)
        Path("fit.yaml").write_text(yaml.safe_dump(RECIPE))
        alone = json.loads(json.dumps(RECIPE))
        alone["trainer"]["callbacks"] = []
        alone["model"]["transformer"] |= {"residual": "pre", "encoder_layers": 0}
        Path("alone.yaml").write_text(yaml.safe_dump(alone))
        other = json.loads(json.dumps(RECIPE))
        other["data"]["data"] = "other"
        prepare(CorpusConfig(train=300, valid=20, test=20).open(), "other", vocabulary_size=200)
        Path("other.yaml").write_text(yaml.safe_dump(other))
        done = call("fit", "--config", "fit.yaml")
        assert done.code == 0, done.err
    return folder


def test_a_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = call(
        *("diagnose", "--recipe", "fit.yaml", "--output", "new", "--batches", "2"),
        *("--deltas", "[1e-4, 1e-2]", "--largest_stable_rate", "true", "--ramp_steps", "5"),
    )
    assert done.code == 0, done.err
    assert done.out.startswith("admin, 2-2 layers: the initialization of fit.yaml, profiled")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "…" not in done.out
    for shown in ("decoder 2 cross-attn", "delta 0.01", "largest stable learning rate", "nats"):
        assert shown in done.out
    values = json.loads(Path("new/diagnosis.json").read_text())
    assert [len(values["layer_dependency"][stack]) for stack in ("encoder", "decoder")] == [4, 6]
    assert list(values["output_change"]["decoder output"]) == ["0.0001", "0.01"]
    assert values["ramp"]["rates"] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert Path("new/diagnosis.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_model_is_rescaled_as_training_rescales_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    omegas = {
        name.removesuffix(".omega"): omega[0].item()
        for name, omega in load_subject("fit.yaml").module.named_parameters()
        if name.endswith(".omega")
    }
    fitted = AdminProfile.load("run/admin_profile.json")
    assert list(omegas.values()) == pytest.approx([site.omega for site in fitted.sites], rel=1e-6)
    assert max(omegas.values()) > 1.1


def test_it_is_rescaled_as_the_callback_of_the_recipe_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    pattern = {
        "branch": "encoder.layers.*.ffn",
        "linear": "encoder.layers.*.ffn.fc2",
        "norm": "encoder.layers.*.ffn_residual.norm",
    }
    recipe = json.loads(json.dumps(RECIPE))
    recipe["model"]["transformer"]["residual"] = "post"
    recipe["trainer"]["callbacks"][0]["init_args"] = {"sites": [pattern], "trainable": False}
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(recipe))
    parameters = load_subject(str(tmp_path / "named.yaml")).module.named_parameters()
    omegas = {name: omega for name, omega in parameters if name.endswith("omega")}
    assert list(omegas) == [f"transformer.encoder.layers.{i}.ffn.omega" for i in (0, 1)]
    assert not any(omega.requires_grad for omega in omegas.values())
    assert all((omega > 0.5).all() for omega in omegas.values())


def test_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    both = ("diagnose", "--recipe", "fit.yaml")
    done = call(*both, "--output", "trained", "--checkpoint", "run/end.ckpt", "--seed", "3")
    assert done.code == 0, done.err
    assert done.out.startswith("admin, 2-2 layers: run/end.ckpt, after 4 updates.")
    values = json.loads(Path("trained/diagnosis.json").read_text())
    # What Lightning's own loading gives.
    subject = load_subject("fit.yaml")
    saved = torch.load("run/end.ckpt", weights_only=True)
    subject.module.load_state_dict(saved["state_dict"])
    with torch.no_grad():
        expected = subject.module.eval().nll(subject.batches[0]).item()
    assert values["nll"] == pytest.approx(expected, rel=1e-5)
    assert values["ramp"] is None


def test_a_decoder_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = call("diagnose", "--recipe", "alone.yaml", "--output", "alone")
    assert done.code == 0, done.err
    assert done.out.startswith("pre, 0-2 layers: the initialization of alone.yaml.")
    assert "encoder output" not in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--recipe", "no.yaml"), "no.yaml"),
        (("--checkpoint", "no.ckpt"), "There is no checkpoint at no.ckpt"),
        (("--checkpoint", "fit.yaml"), "fit.yaml cannot be read as a checkpoint"),
        (
            ("--recipe", "other.yaml", "--checkpoint", "run/end.ckpt"),
            "subwords, but the data of other.yaml",
        ),
        (("--batches", "0"), "`batches` must be at least 1, but is 0"),
        (("--batches", "999"), "`batches` must be at most "),
        (("--deltas", "[1e-4, -1]"), "`deltas` must be positive, but is -1"),
        (("--largest_stable_rate", "true", "--ramp_steps", "0"), "`ramp_steps` must be at least"),
        (("--output", "fit.yaml"), "fit.yaml is a file"),
    ],
)
def test_refusals(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(folder)
    defaults = {"--recipe": "fit.yaml", "--output": "refused"}
    given = [
        word
        for option, value in defaults.items()
        if option not in arguments
        for word in (option, value)
    ]
    done = call("diagnose", *given, *arguments)
    assert done.code == 2
    assert said in done.err
    assert not Path("refused").exists()
