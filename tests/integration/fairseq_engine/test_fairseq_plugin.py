"""`python -m admin_init.fairseq`: fairseq's own commands, with Admin among the architectures."""

import copy
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from _helpers.fairseq_training import training
from pytorch_lightning import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

import admin_init
import admin_init.fairseq
from admin_init import AdminInit
from admin_init.fairseq import plugin

from fairseq import checkpoint_utils, options, tasks  # isort: skip
from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # isort: skip


def omegas(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.endswith(".omega")}


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


WATCHED = """
import torch
from fairseq.trainer import Trainer

original = Trainer.train_step
seen = {"losses": []}

def watched(self, samples, *args, **kwargs):
    if not seen["losses"]:
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        seen.update(first=model, sample=samples[0]["net_input"])
    output = original(self, samples, *args, **kwargs)
    seen["losses"].append(output["loss"])
    seen["last"] = self.model.state_dict()
    torch.save(seen, f"rank{torch.distributed.get_rank()}.pt")
    return output

Trainer.train_step = watched
"""
LAUNCHED = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# fairseq spawns a process for each GPU.
SPAWNED = """
import runpy, torch
torch.cuda.device_count = lambda: 2
runpy.run_module("admin_init.fairseq", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("how", [pytest.param("launched", marks=pytest.mark.slow), "spawned"])
def test_two_processes_have_the_same_omegas(
    first: dict[str, Any], data: Path, tmp_path: Path, how: str
) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "__init__.py").write_text(WATCHED)
    command = [*LAUNCHED, "-m", "admin_init.fairseq"] if how == "launched" else ["-c", SPAWNED]
    arguments = training(data, tmp_path / "saved", "--max-update", 5, "--user-dir", "watched")
    arguments += ["--ddp-backend", "legacy_ddp", "--distributed-backend", "gloo"]
    if how == "spawned":
        store = f"file://{tmp_path}/store"
        arguments += ["--distributed-world-size", 2, "--distributed-init-method", store]
    run = subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "saved" / "checkpoint_last.pt").exists()
    assert (run.stdout + run.stderr).count("the omegas of the residual connections") == 1
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for when in ("first", "last"):
        for name, weight in ranks[0][when].items():
            # The last is a mark that fairseq leaves uninitialized.
            same = torch.equal(weight, ranks[1][when][name]) or name.endswith("_float_tensor")
            assert same, (when, name)
    assert ranks[0]["losses"] == ranks[1]["losses"]
    assert ranks[0]["losses"][-1] < ranks[0]["losses"][0]
    batches = [rank["sample"] for rank in ranks]
    assert not torch.equal(batches[0]["src_tokens"], batches[1]["src_tokens"])
    # And they are those of both batches.
    model = copy.deepcopy(first["model"])
    model.load_state_dict(ranks[0]["first"])
    expected = admin_init.profile(model, batches)
    for site, profiled in zip(admin_init.find_sites(model), expected.sites, strict=True):
        assert site.name == profiled.name
        assert site.omega is not None
        assert site.omega[0].item() == pytest.approx(profiled.omega, rel=1e-6)


def test_half_precision_and_several_batches_an_update(
    first: dict[str, Any], data: Path, tmp_path: Path, fairseq: Callable[..., None]
) -> None:
    # Without the last one, fairseq asks for a GPU.
    half = ["--fp16", "--update-freq", 2, "--fp16-no-flatten-grads"]
    fairseq(*training(data, tmp_path, "--max-update", 2, "--lr", 0, *half))
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    assert saved["optimizer_history"][-1]["num_updates"] == 2
    # Profiled before the model is halved, on the first of the two batches.
    for name, omega in omegas(first["model"].state_dict()).items():
        assert torch.equal(saved["model"][name], omega.half().float()), name


def test_profiling_leaves_no_trace(data: Path, tmp_path: Path) -> None:
    arguments = map(str, training(data, tmp_path, "--dropout", 0.3)[1:])
    parser = options.get_training_parser()
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, list(arguments)))
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    datasets = dict(task.datasets)
    models = []
    drawn = []
    for profiled in (False, True):
        seed_everything(7)
        config.model.admin_profiled = not profiled
        models.append(task.build_model(config.model))
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert task.datasets == datasets
    plain, profiled_model = models
    assert profiled_model.training
    assert omegas(plain.state_dict())["decoder.layers.2.ffn_skip.omega"].eq(1).all()
    assert omegas(profiled_model.state_dict())["decoder.layers.2.ffn_skip.omega"].ne(1).all()
    for name, value in profiled_model.named_parameters():
        if not name.endswith(".omega"):
            assert torch.equal(value, plain.get_parameter(name)), name


def test_user_dir(data: Path, tmp_path: Path) -> None:
    folder = Path(plugin.__file__).parent / "user_dir" / "admin_fairseq_plugin"
    command = "import admin_init.fairseq, fairseq_cli.train as f; f.cli_main()"
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
    with pytest.raises(SystemExit, match=r"fairseq-train: .*Post-LN.*--encoder-normalize"):
        fairseq(*training(data, tmp_path, "--max-update", 1, "--encoder-normalize-before"))


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


def test_the_share_rule(data: Path, tmp_path: Path, fairseq: Callable[..., None]) -> None:
    share = ("--admin-rule", "share", "--admin-share", 0.75)
    fairseq(*training(data, tmp_path, "--max-update", 1, "--lr", 0, *share))
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    found = omegas(saved["model"])
    first, *_, last = [found[name][0] for name in found if name.startswith("encoder.")]
    # The last one is the root of K and all branches but its own, K three times all branches.
    assert first > 1
    assert last / found["encoder.layers.0.ffn_skip.omega"][0] < (4 / 3) ** 0.5
    with pytest.raises(SystemExit, match=r"`share` must be between 0 and 1"):
        fairseq(*training(data, tmp_path / "2", "--admin-rule", "share", "--admin-share", 1))
