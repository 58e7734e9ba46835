"""`python -m admin_init.fairseq`: fairseq's own commands, with Admin among the architectures."""

import copy
import os
import random
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import admin_init
import admin_init.fairseq
from admin_init import AdminInit
from admin_init.fairseq import plugin
from admin_init.fairseq.__main__ import main

from fairseq import checkpoint_utils, models  # isort: skip
from fairseq.trainer import Trainer  # isort: skip

SIZES = {"encoder-layers": 2, "decoder-layers": 3}
for side in ("encoder", "decoder"):
    SIZES |= {f"{side}-embed-dim": 16, f"{side}-ffn-embed-dim": 32, f"{side}-attention-heads": 2}
TRAINING: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 0.01,
    "max-tokens": 200,
    "dropout": 0,
    "criterion": "label_smoothed_cross_entropy",
    "label-smoothing": 0.1,
    "num-workers": 0,
    "seed": 3,
}
FLAGS = ["--share-all-embeddings", "--cpu", "--no-epoch-checkpoints", "--disable-validation"]


@pytest.fixture
def fairseq(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The commands, in this process."""

    def run(*arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", ["admin_init.fairseq", *map(str, arguments)])
        main()

    yield run
    os.environ.pop("PYTHONWARNINGS", None)  # which fairseq's iterators set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin of random sentences."""
    folder = tmp_path_factory.mktemp("plugin")
    rng = random.Random(1)
    for split, lines in {"train": 200, "valid": 20, "test": 20}.items():
        for lang in ("en", "de"):
            text = "\n".join(
                " ".join(f"w{rng.randrange(30)}" for _ in range(rng.randint(1, 10)))
                for _ in range(lines)
            )
            (folder / f"{split}.{lang}").write_text(text + "\n")
    splits = [word for s in ("train", "valid", "test") for word in (f"--{s}pref", str(folder / s))]
    arguments = ["-s", "en", "-t", "de", "--joined-dictionary", *splits]
    with pytest.MonkeyPatch.context() as patch:
        command = ["admin_init.fairseq", "preprocess", *arguments]
        patch.setattr(sys, "argv", [*command, "--destdir", str(folder / "data-bin")])
        main()
    return folder / "data-bin"


def training(data: Path, saved: Path, *more: Any) -> list[Any]:
    arch = ["--arch", "transformer_admin_iwslt_de_en"]
    settings = [word for key, value in (SIZES | TRAINING).items() for word in (f"--{key}", value)]
    return ["train", data, *arch, *settings, *FLAGS, "--save-dir", saved, *more]


def omegas(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.endswith(".omega")}


def profiling(*_: object) -> None:
    raise AssertionError("the model is profiled again")


class Plain(pl.LightningModule):
    """A fairseq model as anybody would wrap it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits: Tensor = self.model(**batch["net_input"])[0]
        return logits.square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of two updates: its checkpoint, and what the trainer began with."""
    saved = tmp_path_factory.mktemp("first")
    seen: dict[str, Any] = {"saved": saved}
    original = Trainer.train_step

    def watched(trainer: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
        if "sample" not in seen:
            seen.update(sample=samples[0], model=copy.deepcopy(trainer.model))
        return original(trainer, samples, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", watched)
        arguments = training(data, saved, "--max-update", 2)
        patch.setattr(sys, "argv", ["admin_init.fairseq", *map(str, arguments)])
        main()
    return seen


def test_omegas_are_those_of_the_callback(first: dict[str, Any]) -> None:
    model = first["model"]
    profiled = omegas(model.state_dict())
    assert len(profiled) == 2 * 2 + 3 * 3
    assert len({omega[0].item() for omega in profiled.values()}) > 10
    # The weights without the omegas, in a model of fairseq's that knows nothing of Admin.
    plain = copy.deepcopy(model)
    for site in admin_init.find_sites(plain):
        site.uninstall_()
    module = Plain(plain)
    trainer = pl.Trainer(
        max_steps=1,
        callbacks=[AdminInit()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([first["sample"]], batch_size=None))
    found = omegas(module.model.state_dict())
    assert found.keys() == profiled.keys()
    for name, omega in profiled.items():
        assert torch.equal(found[name], omega), name


def test_the_checkpoint_has_trained_omegas(first: dict[str, Any]) -> None:
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(first["saved"] / "checkpoint_last.pt"))
    trained, profiled = omegas(saved["model"]), omegas(first["model"].state_dict())
    assert trained.keys() == profiled.keys()
    for name, omega in trained.items():
        moved = not torch.equal(omega, profiled[name])
        # The first of each stack stays 1.
        assert moved == (not name.endswith(".layers.0.self_attn_skip.omega")), name


def test_generate_does_not_profile(
    first: dict[str, Any],
    data: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    path = first["saved"] / "checkpoint_last.pt"
    fairseq("generate", data, "--path", path, "--cpu", "--beam", 2, "--max-len-b", 5)
    assert "Generate test with beam=2: BLEU4 =" in capfd.readouterr().out


def test_a_resumed_run_does_not_profile(
    first: dict[str, Any],
    data: Path,
    fairseq: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugin, "_profiled", profiling)
    fairseq(*training(data, first["saved"], "--max-update", 4))
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(first["saved"] / "checkpoint_last.pt"))
    assert saved["optimizer_history"][-1]["num_updates"] == 4


TWO_RANKS = """
import os
import torch
from admin_init.fairseq.__main__ import main
from fairseq.trainer import Trainer

original = Trainer.train_step

def watched(self, samples, *args, **kwargs):
    file = f"rank{os.environ['RANK']}.pt"
    if not os.path.exists(file):
        torch.save({"model": self.model.state_dict(), "sample": samples[0]["net_input"]}, file)
    return original(self, samples, *args, **kwargs)

Trainer.train_step = watched
if __name__ == "__main__":
    main()
"""


def test_two_processes_have_the_same_omegas(
    first: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "watched.py").write_text(TWO_RANKS)
    arguments = training(data, tmp_path / "saved", "--max-update", 3)
    arguments += ["--ddp-backend", "legacy_ddp", "--distributed-backend", "gloo"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*launch, "watched.py", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "saved" / "checkpoint_last.pt").exists()
    assert (run.stdout + run.stderr).count("the omegas of the residual connections") == 1
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    mine, other = (omegas(rank["model"]) for rank in ranks)
    for name, omega in mine.items():
        assert torch.equal(omega, other[name]), name
    batches = [rank["sample"] for rank in ranks]
    assert not torch.equal(batches[0]["src_tokens"], batches[1]["src_tokens"])
    # And they are those of both batches.
    model = copy.deepcopy(first["model"])
    model.load_state_dict(ranks[0]["model"])
    expected = admin_init.profile(model, batches)
    for site, profiled in zip(admin_init.find_sites(model), expected.sites, strict=True):
        assert site.name == profiled.name
        assert site.omega is not None
        assert site.omega[0].item() == pytest.approx(profiled.omega, rel=1e-6)


def test_user_dir(data: Path, tmp_path: Path) -> None:
    folder = Path(plugin.__file__).parent / "user_dir" / "admin_fairseq_plugin"
    command = "import admin_init.fairseq, fairseq_cli.train; fairseq_cli.train.cli_main()"
    arguments = training(data, tmp_path / "saved", "--max-update", 1, "--user-dir", folder)
    run = subprocess.run(
        [sys.executable, "-c", command, *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "the omegas of the residual connections" in run.stdout + run.stderr


def test_pre_ln_is_refused(data: Path, tmp_path: Path, fairseq: Callable[..., None]) -> None:
    pre = ["--encoder-normalize-before", "--decoder-normalize-before"]
    with pytest.raises(SystemExit, match=r"fairseq-train: .*Post-LN"):
        fairseq(*training(data, tmp_path, "--max-update", 1, *pre))


@pytest.mark.parametrize("arguments", [[], ["tarin", "data"]])
def test_an_unknown_command(fairseq: Callable[..., None], arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"usage: .*generate.*train"):
        fairseq(*arguments)


def test_the_paper_rule(data: Path, tmp_path: Path, fairseq: Callable[..., None]) -> None:
    fairseq(*training(data, tmp_path, "--max-update", 1, "--lr", 0, "--admin-rule", "paper"))
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    models_omegas = omegas(saved["model"])
    # sqrt(Var f_1) alone, where the reference rule adds the variance of x.
    assert models_omegas["encoder.layers.0.ffn_skip.omega"][0] < 1


@pytest.mark.parametrize(
    ("arch", "plain"),
    [
        ("transformer_admin", "transformer"),
        ("transformer_admin_iwslt_de_en", "transformer_iwslt_de_en"),
        ("transformer_admin_wmt_en_de", "transformer_wmt_en_de"),
        ("transformer_admin_wmt_en_de_big", "transformer_wmt_en_de_big"),
    ],
)
def test_the_architectures_are_fairseqs(arch: str, plain: str) -> None:
    found, expected = Namespace(), Namespace()
    models.ARCH_CONFIG_REGISTRY[arch](found)
    models.ARCH_CONFIG_REGISTRY[plain](expected)
    assert found == expected
    assert found.encoder_normalize_before is False
    assert models.ARCH_MODEL_REGISTRY[arch] is plugin.AdminTransformerModel
