"""What is under ``recipes``, and how its files are read."""

import re
import shlex
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

from _helpers import ROOT
from admin_init.translation.recipe_cli import recipe_cli

RECIPES = ROOT / "recipes"
TASKS = sorted(path.parent.name for path in RECIPES.glob("*/fit.yaml"))
Settings = dict[str, Any]


@cache
def _parser() -> Callable[[list[str]], Any]:
    # One for all: to build it takes longer than to use it.
    built = recipe_cli(["--config", str(RECIPES / TASKS[0] / "fit.yaml")], run=False)
    return built.parser.parse_args  # type: ignore[no-any-return]


@cache
def _parsed(*files: str) -> Settings:
    settings: Settings = _parser()([f"--config={RECIPES / file}" for file in files]).as_dict()
    settings.pop("config")
    return settings


def parse(*files: str) -> Settings:
    """Reads YAML files of ``recipes``, one laid over the other, as `admin-init fit` does."""
    return deepcopy(_parsed(*files))


def parse_arguments(arguments: list[str]) -> None:
    """Read the options of `admin-init fit`.

    Raises:
        ArgumentError: One is unknown, or has a value of another type.
    """
    _parser()(arguments)


def run_folder(settings: Settings) -> str:
    """Where the logger and the checkpoints of a run go."""
    logger = settings["trainer"]["logger"]["init_args"]
    return "/".join(logger[key] for key in ("save_dir", "name", "version"))


def commands(task: str) -> list[list[str]]:
    """The arguments of every `admin-init` in a block of code of a README."""
    text = (RECIPES / task / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"^ {4}(?:.*\| )?admin-init (.*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in blocks]
