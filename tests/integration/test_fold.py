"""What becomes of a checkpoint that was trained with AdminInit: loaded without it, and folded."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.command_line import call
from _helpers.small_lightning import data, encoder, module, omegas, trainer
from _helpers.strategy_runs import BRANCH_FORM
from safetensors.torch import load_model
from torch import Tensor, nn

from admin_init import AdminInit, AdminInitError, FoldError, find_sites, install_

NET = """
import pytorch_lightning as pl
import torch
from torch import nn


class Net(pl.LightningModule):
    def __init__(self, width, layers=2):
        super().__init__()
        self.save_hyperparameters()
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.example_input_array = torch.randn(2, 5, width)

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch):
        return (self(batch[0]) - 1).abs().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def build():
    net = Net(16)
    net.example_input_array = None
    return net


def other():
    return Net(16, layers=3)


def batch():
    return torch.randn(3, 4, 16)
"""


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's own file, in the working directory."""
    Path("net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    torch.manual_seed(0)
    yield importlib.import_module("net")
    del sys.modules["net"]


def outputs(model: nn.Module) -> Tensor:
    inputs = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: Tensor = model.eval()(inputs)
    return found


def trained(model: Any, **kwargs: Any) -> Any:
    """Train until the channels of omega differ, and save ``trained.ckpt``."""
    run = trainer(callbacks=[AdminInit(**kwargs)], max_epochs=2)
    run.fit(model, data())
    run.save_checkpoint("trained.ckpt")
    assert all((omega != omega[0]).any() for omega in omegas(model)[1:])
    return model


def test_a_checkpoint_loads_without_the_callback() -> None:
    model = trained(module())
    plain = module()
    # As docs/guide/checkpoints.md has it.
    install_(plain).load_state_dict(torch.load("trained.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(outputs(plain), outputs(model))


@pytest.mark.parametrize("name", ["folded.ckpt", "folded.safetensors"])
def test_a_class_and_its_own_example(name: str, net: ModuleType) -> None:
    model = trained(net.Net(16))
    done = call("fold", "trained.ckpt", name, "--model", "net:Net")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{name}: outputs differ by at most ")
    if name.endswith(".ckpt"):
        plain = net.Net.load_from_checkpoint(name, weights_only=True)
    else:
        load_model(plain := net.Net(16), name)
    torch.testing.assert_close(outputs(plain), outputs(model), rtol=0, atol=1e-5)
    assert not any(site.installed for site in find_sites(plain))


def test_a_function_and_a_batch_that_are_named(net: ModuleType) -> None:
    model = trained(net.build(), sites=BRANCH_FORM)
    assert model.state_dict().keys() >= {"encoder.layers.1.dropout2.omega"}
    sites = json.dumps([vars(pattern) for pattern in BRANCH_FORM])
    named = ("--model", "net:build", "--batch", "net:batch", "--sites", sites)
    done = call("fold", "trained.ckpt", "folded.ckpt", *named)
    assert (done.code, done.err) == (0, "")
    plain = net.Net.load_from_checkpoint("folded.ckpt", weights_only=True)
    torch.testing.assert_close(outputs(plain), outputs(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "net:build"], "`--batch my.module:batch`; or set .* `example_input_array`"),
        (["--model", "net:other"], r"trained\.ckpt cannot be loaded into `net:other`: .*Missing"),
        (["--model", "net:nothing"], "`net:nothing` cannot be found"),
        (["--model", "net:build", "--batch", "net:nothing"], "`net:nothing` cannot be found"),
        ([], "not a checkpoint of a translation model.* `--model`"),
    ],
)
def test_what_cannot_be_folded(arguments: list[str], message: str, net: ModuleType) -> None:
    trained(net.Net(16))
    done = call("fold", "trained.ckpt", "folded.ckpt", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    with pytest.raises(AdminInitError, match=message):
        raise AdminInitError(done.err)
    assert not Path("folded.ckpt").exists()


def test_without_omegas_there_is_nothing_to_fold(net: ModuleType) -> None:
    run = trainer(max_steps=1)
    run.fit(net.Net(16), data())
    run.save_checkpoint("trained.ckpt")
    done = call("fold", "trained.ckpt", "folded.ckpt", "--model", "net:Net")
    assert done.code == 2
    assert "trained.ckpt has no omegas" in done.err


def folding(lightning: ModuleType = pl, **kwargs: Any) -> Any:
    keep = lightning.callbacks.ModelCheckpoint(dirpath="kept", save_last=True)
    callbacks = [AdminInit(fold_on_end=True), keep]
    return trainer(lightning, enable_checkpointing=True, callbacks=callbacks, **kwargs)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fold_on_end(precision: str, lightning: ModuleType) -> None:
    model = module(lightning)
    folding(lightning, precision=precision, max_epochs=2).fit(model, data())
    assert all((omega != omega[0]).any() for omega in omegas(model)[1:])
    assert {path.name for path in Path("kept").iterdir()} >= {"folded.ckpt", "last.ckpt"}
    plain = module(lightning)
    plain.load_state_dict(torch.load("kept/folded.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(outputs(plain), outputs(model), rtol=0, atol=1e-4)
    # What the training saved is still what it can be resumed from.
    saved = torch.load("kept/last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == model.state_dict().keys()
    resumed = module(lightning)
    folding(lightning, max_epochs=3).fit(resumed, data(), ckpt_path="kept/last.ckpt")
    plain.load_state_dict(torch.load("kept/folded.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(outputs(plain), outputs(resumed), rtol=0, atol=1e-4)


def test_fold_on_end_of_a_model_that_it_would_change() -> None:
    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder()

        def forward(self, x: Tensor) -> Tensor:
            between = self.encoder.layers[0](x)
            return between + self.encoder.layers[2](self.encoder.layers[1](between))

    model = module(model=Mix())
    # `between` is read by the outer sum, too.
    trainer = folding(max_epochs=2)
    with pytest.raises(FoldError, match=r"layers.1.self_attn` cannot be folded, .* `add` also"):
        trainer.fit(model, data())
    assert trainer.global_step == 0
    assert not Path("kept/folded.ckpt").exists()


def test_fold_on_end_needs_a_place_and_the_weights_that_count() -> None:
    lone = AdminInit(fold_on_end=True)
    with pytest.raises(AdminInitError, match=r"saves none\. Add a ModelCheckpoint"):
        trainer(callbacks=[lone]).fit(module(), data())
    trainer(callbacks=[lone], fast_dev_run=True, enable_checkpointing=True).fit(module(), data())
    averaging = pl.callbacks.WeightAveraging()
    with pytest.raises(AdminInitError, match="before WeightAveraging replaces them by its average"):
        trainer(callbacks=[lone, averaging], enable_checkpointing=True).fit(module(), data())
