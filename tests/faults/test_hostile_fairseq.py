"""Options and names that fairseq would run: they do not run, whatever brings them."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _helpers.command_line import Done, call

from admin_init.fairseq.__main__ import main
from admin_init.nn import TransformerConfig
from admin_init.rescale import install_
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.module import TranslationModule

from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # isort: skip
from omegaconf import OmegaConf  # isort: skip

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("here")]

CODE = "__import__('os').mkdir('exploited')"
SHELL = "$(mkdir exploited)"
TASK = ["--task", "translation"]
OPTIONS = ("encoder_xformers_att_config", "decoder_xformers_att_config")
FIT = ["--config", "fit.yaml"]
OURS = {
    "translate": ["translate", "--checkpoint", "ours.ckpt"],
    "fold": ["fold", "ours.ckpt", "out"],
    "convert to fairseq": ["convert", "ours.ckpt", "out"],
    "fit --ckpt_path FILE": ["fit", *FIT, "--ckpt_path", "ours.ckpt"],
    "validate": ["validate", *FIT, "--ckpt_path", "ours.ckpt"],
    "test": ["test", *FIT, "--ckpt_path", "ours.ckpt"],
    "predict": ["predict", *FIT, "--ckpt_path", "ours.ckpt"],
    "diagnose": [
        "diagnose",
        "--recipe",
        "fit.yaml",
        "--output",
        "out",
        "--checkpoint",
        "ours.ckpt",
    ],
}
SECONDS = ("fit --ckpt_path FILE", "test", "predict", "diagnose")


@pytest.fixture
def module() -> TranslationModule:
    """A model of fairseq's with omegas, for the data-bin of this folder."""
    words = 4 + len(Path("bin/dict.en.txt").read_text("utf-8").splitlines())
    config = TransformerConfig(
        vocabulary_size=words, dim=16, ffn_dim=32, heads=2, encoder_layers=1, decoder_layers=1
    )
    return TranslationModule(config, fairseq=FairseqConfig())


def save_ours(module: TranslationModule, **overrides: Any) -> None:
    install_(module)
    parameters = dict(module.hparams)
    parameters["fairseq"] = {"arch": None, "overrides": overrides}
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": parameters,
        "datamodule_hyper_parameters": {"data": "bin", "source_lang": "en", "target_lang": "de"},
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(checkpoint, "ours.ckpt")


def save_theirs(module: TranslationModule, form: str, **options: Any) -> None:
    """Save what fairseq-train would, with its options as ``args`` or ``cfg``."""
    model: Any = module.transformer
    honest = vars(model.options) | {
        "arch": "transformer",
        "task": "translation",
        "data": "bin",
        "source_lang": "en",
        "target_lang": "de",
        "criterion": "label_smoothed_cross_entropy",
        "label_smoothing": 0.1,
    }
    saved: dict[str, Any] = {
        "args": Namespace(**honest | options),
        "model": model.model.state_dict(),
        "optimizer_history": [{"num_updates": 1, "optimizer_name": "x", "lr_scheduler_state": {}}],
        "extra_state": {},
        "last_optimizer_state": None,
    }
    if form == "cfg":
        converted = convert_namespace_to_omegaconf(Namespace(**honest))
        cfg: Any = OmegaConf.to_container(converted, resolve=True, enum_to_str=True)
        vars(cfg["model"]).update(options)
        cfg["common"]["user_dir"] = str(Path("evil").absolute())
        saved |= {"args": None, "cfg": cfg}
    torch.save(saved, "theirs.pt")


@pytest.fixture
def fairseq(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A command of fairseq in this process; returns what it is refused with."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["admin_init.fairseq", *arguments])
        monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
        try:
            main()
        except SystemExit as ended:
            return str(ended.code)
        finally:
            os.environ.pop("PYTHONWARNINGS", None)  # which fairseq's iterators set
        return ""

    return run


def refused(done: Done, option: str) -> str:
    assert done.code == 2
    assert option in done.err
    assert "is more than a plain value" in done.err
    assert "Traceback" not in done.err
    assert not Path("exploited").exists()
    assert not Path("out").is_file()
    return done.err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.slow] if c in SECONDS else []) for c in OURS],
)
def test_an_option_in_a_checkpoint_does_not_run(
    command: str, module: TranslationModule, cells: Callable[..., None]
) -> None:
    for option in OPTIONS:
        save_ours(module, **{option: CODE})
        message = refused(call(*OURS[command]), option)
    cells(
        "Faults",
        f"An option that fairseq would run, in a checkpoint to `{command}`",
        tried=len(OPTIONS),
        survived=len(OPTIONS),
        exit_code=2,
        message=message,
    )


def test_it_is_averaged_without_being_run(module: TranslationModule) -> None:
    save_ours(module, encoder_xformers_att_config=CODE)
    done = call("average", "--checkpoints", "ours.ckpt", "ours.ckpt", "--output", "out")
    assert done.code == 0
    assert not Path("exploited").exists()


COMMANDS = {
    "generate": ["generate", "bin", "--path", "theirs.pt", "--cpu"],
    "interactive": ["interactive", "bin", "--path", "theirs.pt", "--cpu"],
    "validate": ["validate", "bin", "--path", "theirs.pt", "--cpu", "--batch-size", "5", *TASK],
}
PLACES: list[dict[str, Any]] = [
    {OPTIONS[0]: CODE},
    {OPTIONS[1]: CODE},
    {"adaptive_softmax_cutoff": CODE},
]


@pytest.mark.parametrize("form", ["args", "cfg"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_in_fairseqs_checkpoint_does_not_run(
    command: str,
    form: str,
    module: TranslationModule,
    fairseq: Callable[..., str],
    cells: Callable[..., None],
) -> None:
    Path("evil").mkdir()
    Path("evil/__init__.py").write_text("import os\nos.mkdir('exploited')\n")
    for place in PLACES:
        save_theirs(module, form, **place)
        message = fairseq(*COMMANDS[command])
        assert "is more than a plain value" in message
        assert not Path("exploited").exists()
    cells(
        "Faults",
        f"An option in `{form}` of a checkpoint to fairseq's `{command}`",
        tried=len(PLACES),
        survived=len(PLACES),
        exit_code=1,
        message=message,
    )


@pytest.mark.parametrize("form", ["args", "cfg"])
def test_such_a_checkpoint_is_not_converted(form: str, module: TranslationModule) -> None:
    for place in PLACES[:2]:
        save_theirs(module, form, **place)
        refused(call("convert", "theirs.pt", "out"), next(iter(place)))
    # fairseq takes options in groups, too.
    save_theirs(module, form, encoder={"xformers_att_config": CODE})
    refused(call("convert", "theirs.pt", "out"), CODE)


@pytest.mark.parametrize("form", ["args", "cfg"])
def test_no_other_file_is_read_for_a_checkpoint(
    form: str, module: TranslationModule, fairseq: Callable[..., str]
) -> None:
    Path("evil").mkdir()
    Path("evil/__init__.py").write_text("import os\nos.mkdir('exploited')\n")
    Path("secret").write_text("1 1\nthis is no embedding\n")
    save_theirs(module, form, encoder_embed_path="secret", decoder_embed_path="secret")
    assert fairseq(*COMMANDS["generate"], "--max-len-b", "2", "--beam", "1") == ""
    assert call("convert", "theirs.pt", "out").code == 0
    assert not Path("exploited").exists()


@pytest.mark.parametrize("form", ["args", "cfg"])
def test_no_environment_variable_is_read_for_a_checkpoint(
    form: str, module: TranslationModule, fairseq: Callable[..., str]
) -> None:
    save_theirs(module, form, activation_fn="${oc.env:HOME}")
    assert "must be plain values, but one is '${oc.env:HOME}'" in fairseq(*COMMANDS["generate"])


def test_no_name_in_a_data_bin_is_given_to_a_shell(
    module: TranslationModule, fairseq: Callable[..., str]
) -> None:
    source, target = f"a{SHELL}", f"b{SHELL}"
    Path("evil").mkdir()
    for old, language in (("en", source), ("de", target)):
        shutil.copy(f"bin/dict.{old}.txt", f"evil/dict.{language}.txt")
        for ending in ("idx", "bin"):
            shutil.copy(
                f"bin/valid.en-de.{old}.{ending}",
                f"evil/valid.{source}-{target}.{language}.{ending}",
            )
        Path(f"evil/valid.{source}-{target}.{language}.fasta").write_text(">a\nx\n")
    save_theirs(
        module, "args", source_lang=source, target_lang=target, dataset_impl="fasta", data="evil"
    )
    message = fairseq(
        "validate", "evil", "--path", "theirs.pt", "--cpu", "--batch-size", "5", *TASK
    )
    assert "would be read by a shell" in message
    assert not Path("exploited").exists()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_in_a_recipe_does_not_run(option: str, cells: Callable[..., None]) -> None:
    recipe = yaml.safe_load(Path("fit.yaml").read_text("utf-8"))
    recipe["model"]["fairseq"] = {"overrides": {option: CODE}}
    Path("fit.yaml").write_text(yaml.safe_dump(recipe))
    grid = {"residual": ["post"], "depth": ["1-1"], "learning_rate": [0.001], "seed": [1]}
    comparison = {
        "output": "out",
        "corpus": {"kind": "embedded", "size": "small", "train": 100, "valid": 10, "test": 10},
        "grid": grid,
        "transformer": {"dim": 16, "ffn_dim": 32, "heads": 2},
        "fairseq": {"overrides": {option: CODE}},
        "max_steps": 2,
    }
    Path("compare.yaml").write_text(yaml.safe_dump(comparison))
    refused(call("fit", *FIT), option)
    done = call("compare", "--config", "compare.yaml")
    assert done.code
    assert "is more than a plain value" in done.err + done.out
    assert not Path("exploited").exists()
    cells(
        "Faults",
        "An option that fairseq would run, in a recipe to `fit` and to `compare`",
        tried=2 * len(OPTIONS),
        survived=2 * len(OPTIONS),
        exit_code="2, 1",
        message=done.err.strip().splitlines()[-1],
    )


def test_a_plain_value_is_no_refusal_of_code(module: TranslationModule) -> None:
    """It is refused for what it asks for: a library that is not there."""
    save_ours(module, encoder_xformers_att_config="{'name': 'scaled_dot_product'}")
    done = call(*OURS["fold"])
    assert done.code == 2
    assert "xFormers" in done.err
    assert "plain value" not in done.err


PARAMETERS: dict[str, Any] = {
    "transformer": {"class_path": "evil.Net"},
    "optimization": "evil.Net",
    "search": "other.yaml",
    "fairseq": {"arch": None, "overrides": {"encoder_layers": {"class_path": "evil.Net"}}},
    "label_smoothing": ["{class_path: evil.Net}"],
    "transformer.class_path": "evil.Net",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_no_class_that_a_checkpoint_names_is_imported(
    name: str, module: TranslationModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text("import os\nos.mkdir('exploited')\nclass Net: pass\n")
    monkeypatch.syspath_prepend(Path.cwd())
    parameters = dict(module.hparams) | {name: PARAMETERS[name]}
    torch.save({"state_dict": {}, "hyper_parameters": parameters}, "ours.ckpt")
    done = call(*OURS["validate"])
    assert done.code == 2
    assert "not the plain values of a translation model" in done.err
    assert "Traceback" not in done.err
    assert not Path("exploited").exists()
