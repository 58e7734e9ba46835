"""What `admin-init` answers without the imports of any command, and its answers to typos."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from _helpers.command_line import call

import admin_init
from admin_init.cli import main as cli

HEAVY = ["torch", "numpy", "pytorch_lightning", "lightning", "matplotlib", "jsonargparse", "rich"]


def test_what_needs_no_command_imports_none() -> None:
    asked = [[], ["--help"], ["help"], ["--version"], ["transalte"], ["help", "fti"]]
    code = (
        "import json, sys\n"
        "from admin_init.cli.main import main\n"
        f"for arguments in {asked}:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as ended: print('ended', ended.code)\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *said, imported = run.stdout.splitlines()
    assert json.loads(imported) == []
    assert [line for line in said if line.startswith("ended")] == [
        *["ended 0"] * 4,
        *["ended 2"] * 2,
    ]
    assert run.stderr.splitlines() == [
        "admin-init transalte: unknown command; `admin-init --help` lists all commands. "
        "Did you mean translate?",
        "admin-init fti: unknown command; `admin-init --help` lists all commands. "
        "Did you mean fit?",
    ]


def test_the_version() -> None:
    assert call("--version").out == f"admin-init {admin_init.__version__}\n"
    assert admin_init.__version__ == version("admin-init")


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "admin_init", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == call("--version").out


def test_help_of_everything() -> None:
    assert call("help").out == call("--help").out == call().out
    for command in ("translate", "merge"):
        assert call("help", command).out == call(command, "--help").out
    assert call("help", "study", "omegas").out == call("study", "omegas", "--help").out


def test_a_purpose_is_said_once() -> None:
    overview = call("--help").out
    for name, command in cli.COMMANDS.items():
        assert f"  {name:10} {command.purpose}\n" in overview
        if command.run is not None:
            assert cli.command_parser(name).description.startswith(f"{command.purpose}\n\n")


@pytest.mark.parametrize("typed", ["transalte", "Translate", "tranlsate", "--hlep", "versoin"])
def test_the_nearest_command(typed: str) -> None:
    near = {"--hlep": "--help", "versoin": "--version"}.get(typed, "translate")
    assert call(typed).err.endswith(f"Did you mean {near}?\n")


def test_nothing_is_near() -> None:
    assert call("sing").err.endswith("`admin-init --help` lists all commands.\n")


@pytest.mark.parametrize(
    ("command", "near"),
    [
        ("translate --checkpiont x", "--checkpoint"),
        ("translate --checkpoint x --beamsize=3", "--beam_size"),
        ("prepare --destination x --corpus.tran 5", "--corpus.train"),
        ("study omegas --outptu x", "--output"),
        ("average --folder x --output y --chekpoints a b", "--checkpoints"),
        ("fit --modle.transformer.dim 8", "--model.transformer.dim"),
    ],
)
def test_the_nearest_option(command: str, near: str) -> None:
    done = call(*command.split())
    assert done.code == 2
    assert done.err.count(f"Did you mean {near}?") == done.err.count("Did you mean") == 1


def test_no_option_is_near() -> None:
    done = call("fold", "a", "b", "--xyzzy", "1")
    assert "unrecognized arguments: --xyzzy 1 `admin-init fold --help`" in done.err
