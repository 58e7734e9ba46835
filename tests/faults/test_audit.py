"""Nothing that stands in a file is compiled, run or unpickled, whatever command reads it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
import yaml
from _helpers.forked import SERVER

MARK = "zqmark"
"""It stands in every file that the commands read, and in no code."""

_PARSERS = {"parse"}  # of `ast`, which runs nothing
_OWN = ("multiprocessing/", "concurrent/futures/")  # what our processes send each other

FILES = ["--corpus.kind", "files", "--corpus.folder", "zqmark"]
ALONE = ["--num-workers", "0"]
TASK = ["--task", "translation"]
FIT = ["--config", "fit.yaml"]
PLAIN = ["--recipe", "plain.yaml"]
LAST = "run/zqmark.ckpt"
QUICK = {
    "prepare": ["prepare", *FILES, "--destination", "bin", "--vocabulary_size", "120"],
    "fit": ["fit", *FIT],
    "translate": ["translate", "--checkpoint", LAST],
    "fold": ["fold", LAST, "folded.ckpt"],
    "average": ["average", "--checkpoints", LAST, LAST, "--output", "average.ckpt"],
    "convert": ["convert", LAST, "theirs.pt"],
    "convert back": ["convert", "theirs.pt", "ours.ckpt"],
    "translate hostile": ["translate", "--checkpoint", "hostile.ckpt"],
    "validate hostile": ["validate", *FIT, "--ckpt_path", "hostile.ckpt"],
    "fairseq generate": [
        "generate",
        "bin",
        "--path",
        "theirs.pt",
        "--cpu",
        "--max-len-b",
        "2",
        *ALONE,
    ],
    "fairseq generate hostile": ["generate", "bin", "--path", "hostile.pt", "--cpu", *ALONE],
}
REST = {
    "validate": ["validate", *FIT, "--ckpt_path", LAST],
    "test": ["test", *FIT, "--ckpt_path", LAST],
    "predict": ["predict", *FIT, "--ckpt_path", LAST],
    "fit on": ["fit", *FIT, "--ckpt_path", LAST, "--trainer.max_steps", "3"],
    "profile": ["profile", "--recipe", "fit.yaml", "--output", "profile.json"],
    "diagnose": ["diagnose", *PLAIN, "--output", "zq", "--checkpoint", "ours.ckpt"],
    "compare": ["compare", "--config", "compare.yaml"],
    "compare again": ["compare", "--config", "compare.yaml"],
    "merge": ["merge", "--folders", "compared", "--output", "merged"],
    "fairseq validate": [
        "validate",
        "bin",
        "--path",
        "theirs.pt",
        "--cpu",
        "--batch-size",
        "5",
        *ALONE,
        *TASK,
    ],
    "fairseq interactive": ["interactive", "bin", "--path", "theirs.pt", "--cpu"],
}


def write_files() -> None:
    Path("zqmark").mkdir()
    for split, number in {"train": 60, "valid": 6, "test": 6}.items():
        for language in ("en", "de"):
            lines = [f"__import__('os').mkdir('{MARK}{i}') a b {language}" for i in range(number)]
            Path(f"zqmark/{split}.{language}").write_text("\n".join(lines) + "\n", "utf-8")
    shape = {"dim": 16, "ffn_dim": 32, "heads": 2}
    saver = {"dirpath": "run", "filename": "zqmark", "every_n_train_steps": 1}
    callbacks: list[dict[str, Any]] = [
        {"class_path": "admin_init.callbacks.admin_init.AdminInit"},
        {"class_path": "ModelCheckpoint", "init_args": saver | {"enable_version_counter": False}},
    ]
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    recipe: dict[str, Any] = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
        "model": {"transformer": shape | layers, "fairseq": {"overrides": {"dropout": 0.0}}},
        "data": {"data": "bin", "source_lang": "en", "target_lang": "de", "max_tokens": 300},
    }
    Path("fit.yaml").write_text(yaml.safe_dump(recipe) + f"# {MARK}\n")
    recipe["model"].pop("fairseq")
    Path("plain.yaml").write_text(yaml.safe_dump(recipe) + f"# {MARK}\n")
    comparison = {
        "title": f"<script>{MARK}</script>",
        "output": "compared",
        "corpus": {"kind": "files", "folder": "zqmark"},
        "vocabulary_size": 120,
        "grid": {"residual": ["post"], "depth": ["1-1"], "learning_rate": [1e-3], "seed": [1]},
        "transformer": shape,
        "max_steps": 2,
    }
    Path("compare.yaml").write_text(yaml.safe_dump(comparison))


def write_hostile_files() -> None:
    """Give the checkpoints that the commands have written a marked option of fairseq."""
    code = f"__import__('os').mkdir('{MARK}')"
    ours = torch.load(LAST, weights_only=True)
    ours["hyper_parameters"]["fairseq"]["overrides"] = {"encoder_xformers_att_config": code}
    torch.save(ours, "hostile.ckpt")
    theirs = torch.load("theirs.pt", weights_only=True)
    theirs["args"].encoder_xformers_att_config = code
    torch.save(theirs, "hostile.pt")


def constants(code: CodeType) -> Iterator[str]:
    yield from (code.co_filename, code.co_name, *code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from constants(constant)
        else:
            yield repr(constant)


def frames() -> Iterator[Any]:
    frame: Any = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


class Watch:
    """A hook that notes what comes from a file; it stays until the process ends."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.seen: set[str] = set()
        self._busy = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        known = event in ("compile", "exec", "import", "pickle.find_class", "os.system")
        if self._busy or not (known or event == "subprocess.Popen"):
            return
        self._busy = True
        try:
            if self._is_from_a_file(event, arguments):
                self.found.append(f"{event}: {arguments!r}"[:300])
        finally:
            self._busy = False

    def _is_from_a_file(self, event: str, arguments: tuple[Any, ...]) -> bool:
        self.seen.add(event)
        if event == "exec":
            return any(MARK in text for text in constants(arguments[0]))
        if event == "pickle.find_class":
            return not any(own in f.f_code.co_filename for f in frames() for own in _OWN)
        if event == "compile" and any(
            f.f_code.co_name in _PARSERS and f.f_code.co_filename.endswith("ast.py")
            for f in frames()
        ):
            return False
        return MARK in repr(arguments)


def work(commands: dict[str, list[str]], report: Any) -> None:
    """Run commands one after another, in a process that ends thereafter."""
    from unittest import mock

    from admin_init.cli import main as cli
    from admin_init.fairseq.__main__ import main

    watch = Watch()
    marked = f"'{MARK}'"
    for bad in (f"eval({marked!r})", "__import__('pickle').loads(b'cos\\ngetcwd\\n.')"):
        eval(bad)  # see that it sees
    proofs, watch.found = len(watch.found), []
    codes: dict[str, Any] = {}
    for name, arguments in commands.items():
        if name == "translate hostile":
            write_hostile_files()
        with open("zqmark/test.en") as lines, mock.patch.object(sys, "stdin", lines):  # noqa: SIM117
            with contextlib.suppress(SystemExit) as _, mock.patch.object(sys, "argv", ["x"]):
                try:
                    if name.startswith("fairseq"):
                        sys.argv = ["x", *arguments]
                        main()
                        codes[name] = 0
                    else:
                        cli.main(arguments)
                except SystemExit as ended:
                    codes[name] = ended.code
    report.put((proofs, watch.found, codes))


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param(QUICK | REST, id="all", marks=[pytest.mark.slow, pytest.mark.faults]),
    ],
)
def test_no_command_runs_what_stands_in_a_file(
    commands: dict[str, list[str]], cells: Callable[..., None]
) -> None:
    write_files()
    report = SERVER.SimpleQueue()
    process = SERVER.Process(target=work, args=(commands, report))
    process.start()
    process.join(280)
    assert process.exitcode == 0
    proofs, found, codes = report.get()
    assert proofs >= 2, "the hook saw nothing where there was something to see"
    assert found == []
    refusals = {name for name, code in codes.items() if code != 0}
    assert refusals == {name for name in commands if name.endswith("hostile")}
    assert not list(Path.cwd().glob(f"{MARK}?*"))
    cells(
        "Faults",
        "Code in every file that is read, to all commands, under an audit hook",
        tried=len(commands),
        survived=len(commands),
        exit_code="0, 1, 2",
        message="none was compiled, run or unpickled",
    )
