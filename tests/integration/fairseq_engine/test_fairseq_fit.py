"""fairseq's Transformer through the command line: trained, validated, tested, folded, used."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _helpers.command_line import call

import admin_init
from admin_init._utils.checkpoints import read_checkpoint
from admin_init.nn import Transformer
from admin_init.translation.checkpoint import load_module
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.preparation.prepare import prepare

RECIPE: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 12,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "callbacks": [
            {"class_path": "admin_init.callbacks.admin_init.AdminInit"},
            {"class_path": "admin_init.callbacks.random_state.RandomState"},
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"dirpath": "checkpoints", "save_last": True},
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
            "residual": "admin",
        },
        "optimization": {"learning_rate": 5e-3, "warmup_steps": 4},
        "search": {"beam_size": 2, "max_len_b": 12},
    },
    "data": {"source_lang": "en", "target_lang": "de", "max_tokens": 400, "left_pad_source": True},
}
LAST = "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "data-bin"
    prepare(CorpusConfig(train=200, valid=10, test=10).open(), folder, vocabulary_size=300)
    return folder


@pytest.fixture
def recipe(data_bin: Path) -> str:
    """A recipe, and the file that is laid over it for the other engine."""
    recipe = RECIPE | {"data": RECIPE["data"] | {"data": str(data_bin)}}
    Path("fit.yaml").write_text(yaml.safe_dump(recipe))
    Path("fairseq.yaml").write_text("model: {fairseq: {}}\n")
    return "fit.yaml"


def logits(path: str, data: Path) -> torch.Tensor:
    batch = next(iter(TranslationDataModule(data, "en", "de").val_dataloader()))
    with torch.no_grad():
        found: torch.Tensor = load_module(read_checkpoint(path))(batch.source, batch.target_input)
    return found[batch.target.ne(1)]


def test_from_a_recipe_to_translations(recipe: str, data_bin: Path) -> None:
    both = ("--config", recipe, "--config", "fairseq.yaml")
    done = call("fit", *both)
    assert done.code == 0, done.err
    saved = torch.load(LAST, weights_only=True)
    weights = saved["state_dict"]
    assert sum(name.endswith(".omega") for name in weights) == 10
    assert "transformer.model.encoder.layers.1.fc1.weight" in weights
    assert saved["hyper_parameters"]["fairseq"] == {"arch": None, "overrides": {}}
    profile = admin_init.AdminProfile.load("checkpoints/admin_profile.json")
    for site in profile.sites:
        assert (site.omega > 1) == (not site.name.endswith("0.self_attn"))

    for command, word in (("validate", "val_nll"), ("test", "test_bleu")):
        done = call(command, *both, "--ckpt_path", LAST)
        assert done.code == 0, done.err
        assert word in done.out
    # The model is the checkpoint's, whatever the recipe says.
    done = call("predict", "--config", recipe, "--ckpt_path", LAST)
    predicted = done.out.splitlines()[-10:]

    text = "".join(f"{line}\n" for line in _sources(data_bin))
    done = call("translate", "--checkpoint", LAST, stdin=text.encode())
    assert done.code == 0, done.err
    assert done.out.splitlines() == predicted

    done = call("fold", LAST, "folded.ckpt")
    assert done.code == 0, done.err
    folded = torch.load("folded.ckpt", weights_only=True)["state_dict"]
    assert folded.keys() == {name for name in weights if not name.endswith(".omega")}
    expected = logits(LAST, data_bin)
    torch.testing.assert_close(
        logits("folded.ckpt", data_bin), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )

    for source, target in ((LAST, "fairseq.pt"), ("fairseq.pt", "ours.ckpt")):
        done = call("convert", source, target)
        assert done.code == 0, done.err
    assert isinstance(load_module(read_checkpoint("ours.ckpt")).transformer, Transformer)
    torch.testing.assert_close(logits("ours.ckpt", data_bin), expected, rtol=0, atol=1e-5)


def _sources(data_bin: Path) -> list[str]:
    data = TranslationDataModule(data_bin, "en", "de")
    return [
        data.tokenizer.decode(data.source_dictionary.decode(ids.tolist()))
        for ids in data.pairs("test").source
    ]


def test_it_goes_on_where_it_stopped(recipe: str) -> None:
    both = ("--config", recipe, "--config", "fairseq.yaml")
    assert call("fit", *both, "--trainer.max_steps", "12").code == 0
    whole = torch.load(LAST, weights_only=True)
    Path("checkpoints").rename("whole")
    assert call("fit", *both, "--trainer.max_steps", "5").code == 0
    Path(LAST).rename("half.ckpt")
    assert call("fit", *both, "--ckpt_path", "half.ckpt").code == 0
    resumed = torch.load(LAST, weights_only=True)
    assert resumed["global_step"] == whole["global_step"] == 12
    for name, weight in whole["state_dict"].items():
        # The others are copies for a fused kernel, renewed when weights are loaded, and one that
        # fairseq leaves without a value.
        if not re.search(r"(in_proj|out_proj|fc1|fc2)_(weight|bias)$|_float_tensor$", name):
            assert torch.equal(weight, resumed["state_dict"][name]), name


ARCH = ("--model.fairseq.arch", "transformer_tiny")


@pytest.mark.parametrize(
    "given",
    [
        ("--config", "arch.yaml"),
        (*ARCH, "--model.fairseq.overrides", "{dropout: 0.2, encoder_layers: 1}"),
        (
            *ARCH,
            *("--model.fairseq.overrides.dropout", "0.2"),
            *("--model.fairseq.overrides.encoder_layers", "1"),
        ),
    ],
)
def test_an_architecture_by_its_name(recipe: str, given: tuple[str, ...]) -> None:
    Path("arch.yaml").write_text(
        "model: {fairseq: {arch: transformer_tiny, overrides: {dropout: 0.2, encoder_layers: 1}}}\n"
    )
    done = call("fit", "--config", recipe, *given, "--trainer.max_steps", "1")
    assert done.code == 0, done.err
    module = load_module(read_checkpoint(LAST))
    config = module.config
    assert (config.dim, config.encoder_layers, config.decoder_layers) == (64, 1, 2)
    assert (config.dropout, config.residual) == (0.2, "admin")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--model.fairseq.arch", "transfomer"), "`arch` must be one of transformer, "),
        ((*ARCH, "--model.fairseq.overrides", "{dropot: 1}"), "no option 'dropot'. Did you mean"),
        ((*ARCH, "--model.fairseq.overrides", "{encoder_layers: x}"), "cannot be built with these"),
        (
            ("--config", "fairseq.yaml", "--model.transformer.residual", "admin-closed"),
            "but `residual` is 'admin-closed'",
        ),
    ],
)
def test_what_cannot_be_built_is_one_line(
    recipe: str, given: tuple[str, ...], message: str
) -> None:
    done = call("fit", "--config", recipe, *given)
    assert done.code == 2
    (last,) = [line for line in done.err.splitlines() if line.startswith("admin-init fit: ")]
    assert message in last
    assert "Traceback" not in done.err


def test_pre_ln_has_nothing_to_rescale(recipe: str) -> None:
    done = call(
        *("fit", "--config", recipe, "--config", "fairseq.yaml"),
        *("--model.transformer.residual", "pre"),
    )
    assert done.code == 2
    assert "Pre-LN" in done.err
