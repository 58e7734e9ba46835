"""The command line, ``admin-init``."""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from admin_init import commands
from admin_init.errors import AdminInitError

TRAINER_COMMANDS = {
    "fit": "Train a model, as a recipe says.",
    "validate": "Compute the validation NLL of a checkpoint.",
    "test": "Translate the test split with a checkpoint, and score it with sacreBLEU.",
    "predict": "Translate the test split with a checkpoint.",
}
"""What LightningCLI does, by the names of the Trainer's methods."""

_RECIPE = "recipes/multi30k_en_de/fit.yaml"
_CHECKPOINT = "runs/multi30k_en_de/admin_4-4/checkpoints/last.ckpt"  # which that recipe writes


class Command(NamedTuple):
    """One of our own commands."""

    run: Callable[..., int]
    """Takes the parsed arguments, returns the exit code."""
    required: tuple[str, ...]
    """What must be given, as the usage line shows it."""
    example: str
    """A command line that works after the ones before it."""


COMMANDS = {
    "prepare": Command(
        commands.prepare,
        ("--destination FOLDER",),
        "admin-init prepare --corpus.kind embedded --destination data-bin/embedded",
    ),
    "profile": Command(
        commands.profile,
        ("--recipe FILE", "--output FILE"),
        f"admin-init profile --recipe {_RECIPE} --output profile.json",
    ),
    "diagnose": Command(
        commands.diagnose,
        ("--recipe FILE", "--output FOLDER"),
        f"admin-init diagnose --recipe {_RECIPE} --output runs/diagnosis",
    ),
    "compare": Command(
        commands.compare,
        ("--config FILE",),
        "admin-init compare --config recipes/demo/compare.yaml",
    ),
    "merge": Command(
        commands.merge,
        ("--folders FOLDER ...", "--output FOLDER"),
        "admin-init merge --folders runs/demo --output runs/both",
    ),
    "study": Command(
        commands.study,
        ("NAME",),
        "admin-init study dependency --output runs/lab/dependency",
    ),
    "translate": Command(
        commands.translate,
        ("--checkpoint FILE",),
        f"echo 'A man is sleeping.' | admin-init translate --checkpoint {_CHECKPOINT}",
    ),
    "fold": Command(
        commands.fold,
        ("CHECKPOINT", "OUTPUT"),
        f"admin-init fold {_CHECKPOINT} folded.ckpt",
    ),
    "average": Command(
        commands.average,
        ("--folder FOLDER", "--output FILE"),
        f"admin-init average --folder {Path(_CHECKPOINT).parent} --output average.ckpt",
    ),
    "convert": Command(
        commands.convert,
        ("CHECKPOINT", "OUTPUT"),
        f"admin-init convert {_CHECKPOINT} checkpoint.pt",
    ),
}


_LISTED = {
    "average": ("checkpoints", "FILE", "What is averaged, in the order of training."),
    "merge": ("folders", "FOLDER", "What `admin-init compare` wrote on each computer."),
}
"""Options that take several words, by command."""


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, which end in an example."""


# The options' help is what stands under the fields of the dataclasses.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``admin-init`` with ``argv``, the process's own arguments by default, and exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    try:
        if name in COMMANDS:
            code = _run(name, arguments[1:])
        elif name in TRAINER_COMMANDS:
            code = _run_trainer(arguments)
        else:
            code = _overview(name)
    except BrokenPipeError:
        # Whoever reads our output has read enough, as `head` does; the rest has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except (AdminInitError, OSError) as error:
        sys.stderr.write(f"admin-init {name}: {error}\n")
        code = getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        sys.stderr.write(f"admin-init {name}: interrupted\n")
        code = 128 + signal.SIGINT
    sys.exit(code)


def command_parser(name: str) -> ArgumentParser:
    """Build the parser of one of :data:`COMMANDS`."""
    command = COMMANDS[name]
    purpose = inspect.getdoc(command.run) or ""
    parser = ArgumentParser(
        prog=f"admin-init {name}",
        formatter_class=_Formatter,
        **_help(name, " ".join(command.required), purpose.partition("\n")[0], command.example),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options.")
    if name == "compare":
        from admin_init.lab.comparison import Comparison

        parser.add_class_arguments(Comparison, as_group=False)
    elif name in _LISTED:
        # Or the list would have to be typed as JSON.
        option, metavar, listed = _LISTED[name]
        parser.add_argument(f"--{option}", nargs="+", metavar=metavar, help=listed)
        parser.add_function_arguments(command.run, as_group=False, skip={option})
    elif name == "study":
        from admin_init.lab.studies import STUDIES

        studies = parser.add_subcommands(dest="name", metavar="NAME", title="studies")
        for key, run in STUDIES.items():
            purpose = (inspect.getdoc(run) or "").partition("\n")[0]
            one = ArgumentParser(formatter_class=_Formatter, description=purpose)
            one.add_argument("--config", action="config", help="YAML file with any of the options.")
            one.add_function_arguments(run, as_group=False)
            studies.add_subcommand(key, one, help=purpose)
    else:
        # From one file to another, as `mv`.
        files = name in ("fold", "convert")
        parser.add_function_arguments(command.run, as_group=False, as_positional=files)
    return parser


def _run(name: str, arguments: list[str]) -> int:
    if name == "compare" and not arguments:
        raise AdminInitError("a comparison needs a `--config FILE` that says what to compare.")
    parser = command_parser(name)
    parsed = parser.parse_args(arguments)
    try:
        settings = parser.instantiate_classes(parsed).as_dict()
    except TypeError as error:
        raise AdminInitError(f"the options cannot be used: {error}") from error
    settings.pop("config", None)
    if name == "study":
        settings |= settings.pop(settings["name"])
        settings.pop("config", None)
    return COMMANDS[name].run(**settings)


def _run_trainer(arguments: list[str]) -> int:
    from admin_init.translation.recipe import recipe_cli

    name = arguments[0]
    example = f"admin-init {name} --config {_RECIPE}"
    if name != "fit":
        example += f" --ckpt_path {_CHECKPOINT}"
    required = "--config FILE" if name == "fit" else "--config FILE --ckpt_path FILE"
    settings = {
        "prog": "admin-init",
        "formatter_class": _Formatter,  # which the parser of a method takes over
        name: _help(name, required, TRAINER_COMMANDS[name], example),
    }
    recipe_cli(arguments, parser_settings=settings)
    return 0


def _help(name: str, required: str, purpose: str, example: str) -> dict[str, Any]:
    return {
        "usage": f"admin-init {name} {required} [--OPTION VALUE ...]",
        "description": f"{purpose}\n\nexample:\n  {example}",
    }


def _overview(name: str) -> int:
    purposes = TRAINER_COMMANDS | {
        name: (inspect.getdoc(command.run) or "").partition("\n")[0]
        for name, command in COMMANDS.items()
    }
    order = "prepare compare merge study fit validate test predict profile diagnose translate"
    lines = [
        f"  {key:10} {purposes[key]}" for key in (*order.split(), "average", "fold", "convert")
    ]
    text = "\n".join(
        [
            "usage: admin-init COMMAND [--OPTION VALUE ...]",
            "",
            "Train deep Post-LN Transformers with Admin, and see them beside other styles.",
            "",
            "example:",
            "  admin-init compare --config recipes/demo/compare.yaml",
            "",
            "commands (each has a --help):",
            *lines,
        ]
    )
    if name in ("-h", "--help"):
        commands.say(text)
        return 0
    raise AdminInitError("there is no such command; `admin-init --help` lists them.")
