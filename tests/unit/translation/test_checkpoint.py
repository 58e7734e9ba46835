import os
import pickle
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.translation_checkpoint import config, logits
from torch import nn

from admin_init import AdminInitError, FoldError, find_sites
from admin_init._utils.checkpoints import read_checkpoint
from admin_init.scaled_skip import ScaledSkip
from admin_init.translation.checkpoint import fold_checkpoint, load_model, load_module
from admin_init.translation.module import TranslationModule


def saved(path: str, residual: str = "admin", **changed: Any) -> TranslationModule:
    """Save a model with omegas whose weights look trained; return it in eval mode."""
    torch.manual_seed(0)
    model = TranslationModule(config(residual, **changed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if name.endswith(".omega"):
                parameter.fill_(1)
                if parameter.requires_grad:
                    parameter.uniform_(0.5, 3.0)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "datamodule_hyper_parameters": {"data": "data-bin"},
        "epoch": 3,
        "global_step": 70,
        "optimizer_states": [{"state": {}}],
        "callbacks": {"AdminInit": {}},
        "pytorch-lightning_version": version("pytorch-lightning"),
    }
    torch.save(checkpoint, path)
    return model.eval()


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploited",)


def damaged() -> dict[str, bytes]:
    saved("whole.ckpt")
    whole = Path("whole.ckpt").read_bytes()
    return {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"trainer:\n  max_steps: 4\n",
        "other pickle": pickle.dumps({"state_dict": Exploit()}),
    }


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "other pickle"])
def test_what_is_no_checkpoint(kind: str) -> None:
    Path("bad.ckpt").write_bytes(damaged()[kind])
    with pytest.raises(AdminInitError, match=r"^bad\.ckpt cannot be read as a checkpoint") as error:
        read_checkpoint("bad.ckpt")
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_does_not_run() -> None:
    torch.save({"state_dict": {}, "callbacks": Exploit()}, "evil.ckpt")
    with pytest.raises(AdminInitError, match="holds more than tensors and plain values"):
        read_checkpoint("evil.ckpt")
    assert not Path("exploited").exists()
    torch.load("evil.ckpt", weights_only=False)
    assert Path("exploited").exists()


def test_a_missing_file_and_one_of_something_else() -> None:
    with pytest.raises(AdminInitError, match=r"no checkpoint at nowhere/last\.ckpt"):
        read_checkpoint("nowhere/last.ckpt")
    torch.save([1, 2], "list.ckpt")
    torch.save({"weight": torch.ones(2)}, "weights.ckpt")
    for name in ("list", "weights"):
        with pytest.raises(AdminInitError, match=f"{name}.ckpt is not a Lightning checkpoint"):
            read_checkpoint(f"{name}.ckpt")


@pytest.mark.parametrize("residual", ["post", "pre", "admin", "admin-closed"])
def test_the_model_is_rebuilt(residual: str) -> None:
    model = saved("model.ckpt", residual)
    again = load_module(read_checkpoint("model.ckpt"))
    assert not again.training
    assert again.hparams == model.hparams
    assert torch.equal(logits(again), logits(model))
    # And without what trains it.
    bare = load_model(read_checkpoint("model.ckpt"))
    assert not isinstance(bare, pl.LightningModule)
    assert not bare.training
    assert (bare.config, bare.search) == (model.config, model.search)
    assert torch.equal(logits(bare), logits(model))


@pytest.mark.parametrize("load", [load_model, load_module])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hyper_parameters", None),
        ("hyper_parameters", {"width": 3}),
        ("hyper_parameters", {"transformer": {"vocabulary_size": 40, "dim": 15}}),
        ("hyper_parameters", {"transformer": {"vocabulary_size": 40, "dim": 32, "heads": 2}}),
    ],
)
def test_a_checkpoint_of_another_module(key: str, value: Any, load: Callable[..., Any]) -> None:
    saved("model.ckpt")
    checkpoint = read_checkpoint("model.ckpt")
    del checkpoint[key]
    if value is not None:
        checkpoint[key] = value
    with pytest.raises(AdminInitError, match="not a checkpoint of a translation model"):
        load(checkpoint)


CLAIMS = [
    {"encoder_layers": 3_000_000},
    {"decoder_layers": 10**9},
    {"dim": 10**6},
    {"ffn_dim": 10**12},
    {"vocabulary_size": 10**9},
    {"max_positions": 10**10},
    {"max_positions": 10**10, "positions": "learned"},
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
@pytest.mark.parametrize("engine", ["own", "fairseq"])
def test_a_model_larger_than_its_weights_is_never_built(
    claim: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("model.ckpt")
    checkpoint = read_checkpoint("model.ckpt")
    settings = checkpoint["hyper_parameters"]
    settings["transformer"] |= claim
    if engine == "fairseq":
        settings["fairseq"] = {"overrides": {"encoder_layers": 10**7} if "dim" in claim else {}}
    built = []
    empty = nn.Linear.reset_parameters

    def reset_parameters(linear: nn.Linear) -> None:
        built.append(linear.weight.numel())
        empty(linear)

    monkeypatch.setattr(nn.Linear, "reset_parameters", reset_parameters)
    with pytest.raises(AdminInitError, match="not a checkpoint of a translation model"):
        load_module(checkpoint)
    assert len(built) < 200
    assert max(built, default=0) <= max(w.numel() for w in checkpoint["state_dict"].values())


def test_a_weight_that_is_larger_than_the_file_is_refused() -> None:
    saved("model.ckpt")
    checkpoint = read_checkpoint("model.ckpt")
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(checkpoint, "expanded.ckpt")
    with pytest.raises(AdminInitError, match=f"`{name}` is not a tensor, or is larger than"):
        read_checkpoint("expanded.ckpt")


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused() -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1000, 1000)}}, "plain.ckpt")
    with (
        zipfile.ZipFile("plain.ckpt") as plain,
        zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert read_checkpoint("plain.ckpt")
    with pytest.raises(AdminInitError, match=r"bomb\.ckpt cannot be read as a checkpoint"):
        read_checkpoint("bomb.ckpt")


@pytest.mark.parametrize("residual", ["admin", "admin-closed", "admin-closed-constant"])
@pytest.mark.parametrize("share", ["all", "none"])
def test_folded_it_is_a_plain_model(residual: str, share: Any) -> None:
    model = saved("model.ckpt", residual, share_embeddings=share)
    if residual != "admin":
        # Where the first omega is trained, only one that all its channels share can be folded.
        checkpoint = read_checkpoint("model.ckpt")
        for site in find_sites(model):
            if site.previous is None and site.omega is not None:
                site.omega.data.fill_(1.7)
        torch.save(checkpoint | {"state_dict": model.state_dict()}, "model.ckpt")
    before = Path("model.ckpt").read_bytes()
    difference = fold_checkpoint("model.ckpt", "new/folded.ckpt")
    assert Path("model.ckpt").read_bytes() == before
    assert os.listdir("new") == ["folded.ckpt"]
    checkpoint = torch.load("new/folded.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["transformer"]["residual"] == "post"
    assert checkpoint["epoch"] == 3
    assert checkpoint["datamodule_hyper_parameters"] == {"data": "data-bin"}
    assert not checkpoint.keys() & {"optimizer_states", "callbacks"}

    plain = TranslationModule(config("post", share_embeddings=share))
    assert checkpoint["state_dict"].keys() == plain.state_dict().keys()
    plain.load_state_dict(checkpoint["state_dict"], strict=True)
    assert not any(isinstance(module, ScaledSkip) for module in plain.modules())
    ours, theirs = logits(model), logits(plain.eval())
    assert difference < 1e-4
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-5 * float(ours.abs().max()))
    again = TranslationModule.load_from_checkpoint("new/folded.ckpt")
    assert torch.equal(logits(again.eval()), theirs)


def test_the_omegas_are_not_just_left_out() -> None:
    # So that the test above can fail.
    model = saved("model.ckpt")
    plain = TranslationModule(config("post")).eval()
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith(".omega")}
    plain.load_state_dict(weights)
    assert (logits(plain) - logits(model)).abs().max() > 0.1


def refuse(name: str, kind: type[Exception], message: str) -> None:
    Path("folded.ckpt").write_text("what was there")
    with pytest.raises(kind, match=message):
        fold_checkpoint(name, "folded.ckpt")
    assert Path("folded.ckpt").read_text() == "what was there"
    assert not [path for path in os.listdir() if path.startswith("tmp")]


@pytest.mark.parametrize("residual", ["post", "pre"])
def test_without_omegas_there_is_nothing_to_fold(residual: str) -> None:
    saved("plain.ckpt", residual)
    refuse("plain.ckpt", AdminInitError, r"plain\.ckpt has no omegas")


@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_an_omega_that_cannot_be_folded(value: float) -> None:
    model = saved("model.ckpt")
    checkpoint = read_checkpoint("model.ckpt")
    key = next(k for k in reversed(model.state_dict()) if k.endswith(".omega"))
    checkpoint["state_dict"][key][3] = value
    torch.save(checkpoint, "model.ckpt")
    refuse("model.ckpt", FoldError, "zero or not finite")


def test_weights_that_are_not_finite_change_the_outputs() -> None:
    saved("model.ckpt")
    checkpoint = read_checkpoint("model.ckpt")
    checkpoint["state_dict"]["transformer.encoder.layers.1.ffn.fc2.bias"][:] = float("inf")
    torch.save(checkpoint, "model.ckpt")
    refuse("model.ckpt", FoldError, "would change the outputs by nan")


def test_a_model_of_few_positions() -> None:
    model = saved("model.ckpt", max_positions=10)
    fold_checkpoint("model.ckpt", "folded.ckpt")
    folded = load_module(read_checkpoint("folded.ckpt"))
    torch.testing.assert_close(logits(folded), logits(model), rtol=0, atol=1e-4)
