"""The command line, ``admin-init``.

The imports of a command take seconds, so they happen only when the command needs them.
"""

from __future__ import annotations

import inspect
import os
import shlex
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from admin_init._utils.interruption import WORDS, end_at_once, on_signals
from admin_init._utils.output import results_only, say
from admin_init.cli import commands, model_commands
from admin_init.cli.chatter import silence_chatter
from admin_init.errors import AdminInitError, OptionError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_RECIPE = "recipes/multi30k_en_de/fit.yaml"
_CHECKPOINT = "runs/multi30k_en_de/admin_4-4/checkpoints/last.ckpt"  # which that recipe writes


class Command(NamedTuple):
    """A command and how it is called."""

    purpose: str
    """One sentence for the help."""
    required: str
    """Required options, as in the usage line."""
    example: str
    """A command line that works after the examples of the commands before it."""
    run: Callable[..., int] | None = None
    """A function from the options to the exit code; None for the commands of LightningCLI."""
    list_option: tuple[str, str, str] | None = None
    """An option with several values: its name, the placeholder of a value, and its help."""
    subcommands: Callable[[], Mapping[str, Callable[..., Any]]] | None = None
    """Returns the functions that the command offers by name, each with its own options."""
    signal_message: str | None = None
    """Message before the command to repeat, when a signal ends the command at once; empty if there
    is nothing to repeat, None if signals are not handled here."""


def _own(run: Callable[..., int], required: str, example: str, **settings: Any) -> Command:
    return Command(_purpose(run), required, example, run, **settings)


def _evaluation(name: str, purpose: str) -> Command:
    example = f"admin-init {name} --config {_RECIPE} --ckpt_path {_CHECKPOINT}"
    return Command(purpose, "--config FILE --ckpt_path FILE", example, signal_message="")


def _purpose(run: Callable[..., Any]) -> str:
    return (inspect.getdoc(run) or "").partition("\n")[0]


_KEPT = " Finished work is kept. To continue: "

COMMANDS = {
    "prepare": _own(
        commands.prepare,
        "--destination FOLDER",
        "admin-init prepare --corpus.kind embedded --destination data-bin/embedded",
        signal_message=_KEPT,
    ),
    "compare": _own(
        commands.compare,
        "--config FILE",
        "admin-init compare --config recipes/demo/compare.yaml",
        signal_message=_KEPT,
    ),
    "merge": _own(
        commands.merge,
        "--folders FOLDER ... --output FOLDER",
        "admin-init merge --folders runs/demo --output runs/both",
        list_option=("folders", "FOLDER", "Output folders of `admin-init compare` to merge."),
    ),
    "study": _own(
        commands.study,
        "NAME",
        "admin-init study dependency --output runs/lab/dependency",
        subcommands=commands.studies,
    ),
    "fit": Command(
        "Train the model of a recipe.",
        "--config FILE",
        f"admin-init fit --config {_RECIPE}",
        signal_message=" The training had not started. To start it: ",
    ),
    "validate": _evaluation("validate", "Compute the validation NLL of a checkpoint."),
    "test": _evaluation("test", "Translate the test split with a checkpoint, and compute BLEU."),
    "predict": _evaluation("predict", "Translate the test split with a checkpoint."),
    "profile": _own(
        model_commands.profile,
        "--recipe FILE --output FILE",
        f"admin-init profile --recipe {_RECIPE} --output profile.json",
    ),
    "diagnose": _own(
        commands.diagnose,
        "--recipe FILE --output FOLDER",
        f"admin-init diagnose --recipe {_RECIPE} --output runs/diagnosis",
    ),
    "translate": _own(
        commands.translate,
        "--checkpoint FILE",
        f"echo 'A man is sleeping.' | admin-init translate --checkpoint {_CHECKPOINT}",
    ),
    "average": _own(
        commands.average,
        "--folder FOLDER --output FILE",
        f"admin-init average --folder {PurePath(_CHECKPOINT).parent} --output average.ckpt",
        list_option=("checkpoints", "FILE", "Checkpoints to average, in the order of training."),
    ),
    "fold": _own(
        model_commands.fold,
        "CHECKPOINT OUTPUT",
        f"admin-init fold {_CHECKPOINT} folded.ckpt",
    ),
    "convert": _own(
        commands.convert,
        "CHECKPOINT OUTPUT",
        f"admin-init convert {_CHECKPOINT} checkpoint.pt",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``admin-init`` with ``argv``, the process's own arguments by default, and exit."""
    given = [*map(_underscored, sys.argv[1:] if argv is None else argv)]
    name, *arguments = given or ["--help"]
    if name == "help":
        name, *arguments = [*arguments, "--help"]
    silence_chatter()
    try:
        with _signals(name, arguments):
            code = _run(name, arguments)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has stopped reading; drop the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except (AdminInitError, OSError) as error:
        hint = f" `admin-init {name} --help` lists the options."
        shown = hint if isinstance(error, OptionError) else ""
        line = " ".join(str(error).splitlines())  # one line for several problems
        sys.stderr.write(f"admin-init {name}: {line}{shown}\n")
        code = getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        sys.stderr.write(f"admin-init {name}: interrupted\n")
        code = 128 + signal.SIGINT
    sys.exit(code)


def _underscored(argument: str) -> str:
    """Replace hyphens in the name of an option: ``--too-long`` becomes ``--too_long``."""
    option, equals, value = argument.partition("=")
    if option.startswith("--"):
        option = "--" + option[2:].replace("-", "_")
    return option + equals + value


def _signals(name: str, arguments: list[str]) -> AbstractContextManager[None]:
    """Let SIGINT and SIGTERM end a command at once if it can be continued by repeating it."""
    told = COMMANDS[name].signal_message if name in COMMANDS else None
    if told is None:
        return nullcontext()

    def answer(number: signal.Signals) -> None:
        again = told and told + shlex.join(["admin-init", name, *arguments])
        end_at_once(number, f"admin-init {name}: {WORDS[number]}.{again}")

    return on_signals(answer)


def _run(name: str, arguments: list[str]) -> int:
    if name in ("-h", "--help"):
        say(_overview())
        return 0
    if name == "--version":
        from admin_init._utils.version import __version__

        say(f"admin-init {__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, [*COMMANDS, "help", "--help", "--version"], n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise AdminInitError(f"unknown command; `admin-init --help` lists all commands.{meant}")
    from admin_init._utils.option_parser import read_help

    read_help(arguments)
    run = COMMANDS[name].run
    return _run_trainer(name, arguments) if run is None else _run_own(name, run, arguments)


def _overview() -> str:
    return "\n".join(
        [
            "usage: admin-init COMMAND [--OPTION VALUE ...]",
            "",
            "Train deep Post-LN Transformers with Admin, and compare them with other styles.",
            "",
            "example:",
            f"  {COMMANDS['compare'].example}",
            "",
            "commands (each has a --help):",
            *(f"  {name:10} {command.purpose}" for name, command in COMMANDS.items()),
        ]
    )


def _run_own(name: str, run: Callable[..., int], arguments: list[str]) -> int:
    parser = command_parser(name)
    try:
        parsed = parser.parse_args(arguments)
        settings = parser.instantiate_classes(parsed).as_dict()
    except ArgumentError as error:
        raise OptionError(error, arguments) from error
    except TypeError as error:
        raise AdminInitError(f"the options cannot be used: {error}") from error
    settings.pop("config", None)
    with results_only():
        return run(**settings)


def command_parser(name: str) -> ArgumentParser:
    """Build the parser of one of :data:`COMMANDS` that is not LightningCLI's."""
    command = COMMANDS[name]
    parser = _parser(prog=f"admin-init {name}", **_help(name))
    if command.subcommands is not None:
        title = command.subcommands.__name__
        names = parser.add_subcommands(dest="name", metavar="NAME", title=title)
        for key, function in command.subcommands().items():
            usage = f"admin-init {name} {key} [--OPTION VALUE ...]"
            one = _parser(usage=usage, description=_purpose(function), exit_on_error=False)
            one.add_function_arguments(function, as_group=False)
            names.add_subcommand(key, one, help=_purpose(function))
        return parser
    if command.list_option is not None:
        # By default, jsonargparse wants the list as JSON.
        option, metavar, text = command.list_option
        parser.add_argument(f"--{option}", nargs="+", metavar=metavar, help=text)
    parser.add_function_arguments(
        command.run,  # type: ignore[arg-type]
        as_group=False,
        skip=set() if command.list_option is None else {command.list_option[0]},
        as_positional=not command.required.startswith("-"),
    )
    return parser


def _parser(**settings: Any) -> ArgumentParser:
    from admin_init._utils.option_parser import OptionParser

    parser = OptionParser(**settings)
    parser.add_argument("--config", action="config", help="YAML file with any of the options.")
    return parser


def _run_trainer(name: str, arguments: list[str]) -> int:
    from admin_init._utils.memory import keep_freed_memory
    from admin_init.translation.recipe_cli import recipe_cli

    keep_freed_memory()
    with results_only():
        recipe_cli([name, *arguments], parser_settings={"prog": "admin-init", name: _help(name)})
    return 0


def _help(name: str) -> dict[str, Any]:
    command = COMMANDS[name]
    return {
        "usage": f"admin-init {name} {command.required} [--OPTION VALUE ...]",
        "description": f"{command.purpose}\n\nexample:\n  {command.example}",
        "exit_on_error": False,  # `main` prints the error
    }
