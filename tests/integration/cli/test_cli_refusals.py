"""What `admin-init` refuses: in one line, with 2 as the exit code, and with nothing left behind."""

import gzip
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers import ROOT
from _helpers.command_line import call

from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

FIT = str(ROOT / "recipes/multi30k_en_de/fit.yaml")


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploited",)


def prepare_files(**files: bytes) -> list[str]:
    """Parallel files, with some of them replaced."""
    for split in ("train", "valid", "test"):
        for language in ("en", "de"):
            content = files.get(f"{split}_{language}", b"one two\nthree four\n")
            suffix = ".gz" if content.startswith(b"\x1f\x8b") else ""
            Path("corpus").mkdir(exist_ok=True)
            Path(f"corpus/{split}.{language}{suffix}").write_bytes(content)
    return [
        "prepare",
        "--destination",
        "out",
        "--corpus.kind",
        "files",
        "--corpus.folder",
        "corpus",
    ]


def corrupt_multi30k() -> list[str]:
    Path("corpus").mkdir()
    Path("corpus/train.en.gz").write_bytes(gzip.compress(b"A man.\n"))
    return [
        "prepare",
        "--destination",
        "out",
        "--corpus.kind",
        "multi30k",
        "--corpus.folder",
        "corpus",
    ]


def yaml_of(command: str, text: str) -> list[str]:
    Path("recipe.yaml").write_text(text)
    return [command, "--config", "recipe.yaml"]


def on_tiny_data(command: str) -> list[str]:
    corpus = CorpusConfig(train=200, valid=9, test=9)
    prepare(corpus.open(), "bin", vocabulary_size=300)
    tiny = ["--model.transformer.dim", "16", "--data.data", "bin", "--data.max_tokens", "300"]
    return [command, "--config", FIT, "--trainer.logger", "false", *tiny]


def damaged_data_bin() -> list[str]:
    arguments = on_tiny_data("fit")
    binary = Path("bin/train.en-de.de.bin")
    binary.write_bytes(binary.read_bytes()[:-3])
    return arguments


def evil_checkpoint(command: str) -> list[str]:
    torch.save({"state_dict": {}, "callbacks": Exploit()}, "evil.ckpt")
    if command == "translate":
        return ["translate", "--checkpoint", "evil.ckpt"]
    return [command, "--config", FIT, "--ckpt_path", "evil.ckpt"]


REFUSED: dict[str, tuple[Callable[[], list[str]], str]] = {
    "unknown command": (lambda: ["trian"], "trian: unknown command"),
    "option before the command": (lambda: ["--config", "x"], "unknown command"),
    "unknown option": (lambda: ["fold", "--nonsense", "1"], "nonsense"),
    "nothing required": (lambda: ["fold"], "required: checkpoint, output"),
    "no recipe": (lambda: ["compare", "--config", "no.yaml"], "File does not exist"),
    "no recipe to profile": (
        lambda: ["profile", "--recipe", "no.yaml", "--output", "p.json"],
        "File does not exist",
    ),
    "no corpus": (
        lambda: ["prepare", "--destination", "out", "--corpus.kind", "files"],
        "needs a `folder`",
    ),
    "unequal lengths": (
        lambda: prepare_files(train_de=b"eins\n"),
        "corpus/train.en has 2 lines, but corpus/train.de has 1",
    ),
    "not UTF-8": (
        lambda: prepare_files(valid_en=b"one\n\xe4\n"),
        "corpus/valid.en, line 2: byte 1 is not UTF-8",
    ),
    "truncated gz": (
        lambda: prepare_files(test_de=gzip.compress(b"eins zwei\n" * 9)[:-9]),
        "corpus/test.de.gz cannot be read: it is missing, truncated, damaged",
    ),
    "wrong checksum": (corrupt_multi30k, "train.en.gz has the wrong checksum"),
    "negative size": (
        lambda: ["prepare", "--destination", "out", "--corpus.train", "-5"],
        "`train` must be at least 0 pairs, but is -5",
    ),
    "settings that contradict each other": (
        lambda: ["prepare", "--destination", "out", "--aggressive_hyphens", "true"],
        "set `subwords` to `subword-nmt`",
    ),
    "two origins of the validation data": (
        lambda: [*prepare_files(), "--valid_every", "5"],
        "`valid_every` makes a split 'valid' from training pairs",
    ),
    "no worker": (
        lambda: ["prepare", "--destination", "out", "--workers", "0"],
        "`workers` must be at least 1, but is 0",
    ),
    "damaged data-bin": (damaged_data_bin, "train.en-de.de.bin is missing or damaged"),
    "missing checkpoint": (
        lambda: [*on_tiny_data("validate"), "--ckpt_path", "no.ckpt"],
        "There is no checkpoint at no.ckpt",
    ),
    "missing checkpoint to translate": (
        lambda: ["translate", "--checkpoint", "no.ckpt"],
        "There is no checkpoint at no.ckpt",
    ),
    "missing checkpoint to fold": (
        lambda: ["fold", "no.ckpt", "x.ckpt"],
        "There is no checkpoint at no.ckpt",
    ),
    "harmful checkpoint": (lambda: evil_checkpoint("translate"), "more than tensors"),
    "harmful checkpoint to fit": (lambda: evil_checkpoint("fit"), "more than tensors"),
    **{
        f"no checkpoint to {method}": (
            partial(lambda method: [method, "--config", FIT], method),
            f"{method} needs the weights of a checkpoint. Give one as `--ckpt_path FILE`",
        )
        for method in ("validate", "test", "predict")
    },
    "a checkpoint without a name": (
        lambda: ["fit", "--config", FIT, "--ckpt_path", ""],
        "Give one as `--ckpt_path FILE`",
    ),
    "a checkpoint that is not there": (
        lambda: ["fit", "--config", FIT, "--ckpt_path", "no.ckpt"],
        "There is no checkpoint at no.ckpt",
    ),
    **{
        f"the {which} checkpoint of no run": (
            partial(lambda which: ["test", "--config", FIT, "--ckpt_path", which], which),
            message,
        )
        for which, message in (
            ("last", "the run of this recipe has no checkpoint. Give one as"),
            ("best", "is not configured to save the best model. Give one as"),
            ("hpc", "no HPC checkpoint was found."),
        )
    },
    "a seed that is none": (
        lambda: ["fit", "--config", FIT, "--seed_everything", "-5"],
        "`seed_everything` must be from 0 to 4294967295, but is -5",
    ),
    "YAML value of a comparison": (
        lambda: yaml_of("compare", "max_steps: many\n"),
        "Given value: many",
    ),
    "YAML value of a recipe": (
        lambda: yaml_of(
            "fit",
            "model: {transformer: {dim: 15}}\ndata: {data: x, source_lang: en, target_lang: de}\n",
        ),
        "`dim` must be divisible by `heads` = 8, but is 15",
    ),
    "YAML null in place of a number": (
        lambda: yaml_of(
            "fit",
            "model: {label_smoothing: null}\ndata: {data: x, source_lang: en, target_lang: de}\n",
        ),
        "`label_smoothing` must be at least 0 and below 1, but is None",
    ),
    "YAML null in place of options": (
        lambda: yaml_of("fit", "model: null\ndata: {data: x, source_lang: en, target_lang: de}\n"),
        "`model` must be a mapping of options, but is None",
    ),
    "YAML key": (lambda: yaml_of("compare", "stepps: 5\n"), "stepps"),
    "no YAML": (lambda: yaml_of("compare", "a: [1\n"), "config"),
    "a folder that cannot be made": (
        lambda: ["prepare", "--destination", "/dev/null/out", "--corpus.train", "9"],
        "/dev/null",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_with_2_and_a_line_that_says_why(case: str) -> None:
    arguments, message = REFUSED[case]
    found = call(*arguments())
    assert found.code == 2
    *_, refusal = found.err.splitlines()
    assert refusal.startswith("admin-init ")
    assert message in refusal
    assert "Traceback" not in found.err
    assert "usage:" not in found.err
    assert not found.out
    left = {"runs", "out", ".out.scratch", "exploited", "x.ckpt", "p.json"} & set(os.listdir())
    assert not left
