"""Values that nobody means, for every numeric option of every command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from _helpers.command_line import call
from _helpers.nasty_values import examine, fill
from hypothesis import strategies as st

from admin_init.cli import main as cli
from admin_init.lab.comparison import runner as compare
from admin_init.lab.studies import STUDIES
from admin_init.translation.recipe_cli import RecipeCLI, recipe_cli

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

VALUES = ["0", "-1", "-0.5", ".nan", ".inf", "1e999", "", "null"]
CORPUS = ["--corpus.train=60", "--corpus.valid=5", "--corpus.test=5", "--vocabulary_size=200"]
SHAPE = ["--transformer={dim: 16, ffn_dim: 32, heads: 2}", "--grid.depth=[1-1]"]
STUDY = {"depths": "[1, 2, 3]", "depth": "1", "seeds": "[1]", "dim": "8", "batch_sizes": "[64]"}
STUDY |= {"batches": "1", "draws": "1", "max_tokens": "64", "residuals": "[post]"}
# Of the Trainer, those that let a training end.
ENDLESS = {"--trainer.max_steps", "--trainer.max_epochs", "--trainer.min_steps"}
ENDLESS |= {"--trainer.min_epochs"}


def options(parser: Any) -> Iterator[tuple[str, str]]:
    """Yield every numeric option with each of the values."""
    for action in parser._actions:
        hint = str(getattr(action, "_typehint", None) or action.type)
        if action.option_strings and ("int" in hint or "float" in hint):
            listed = any(kind in hint for kind in ("list", "Sequence", "tuple"))
            for value in VALUES:
                given = f"[{value}]" if listed and value not in ("", "null") else value
                yield action.option_strings[0], given


def check(outcomes: list[str], *arguments: str) -> None:
    done = call(*arguments)
    assert done.code in (0, 2), (arguments, done.err)
    assert "Traceback" not in done.err, arguments
    outcomes.append("refused" if done.code else "taken")
    if done.code:
        *_, refusal = done.err.splitlines()
        assert refusal.startswith(f"admin-init {arguments[0]}: "), (arguments, done.err)
        assert not done.out, arguments


def parser_of_fit() -> Any:
    parsers = []

    def keep(self: RecipeCLI, parser: Any, arguments: Any) -> None:
        parsers.append(self._subcommand_parsers["fit"])
        raise SystemExit

    with mock.patch.object(RecipeCLI, "parse_arguments", keep), pytest.raises(SystemExit):
        recipe_cli(["fit"])
    return parsers[0]


def parser_of_study(name: str) -> Any:
    parser = cli.command_parser("study")
    studies = next(action for action in parser._actions if action.dest == "name")
    return studies._name_parser_map[name]


OURS = ["prepare", "translate", "average", "profile", "diagnose", "compare"]


@pytest.mark.parametrize("command", [*OURS, *STUDIES, "fit"])
def test_options(
    command: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    outcomes: list[str] = []
    recipe = ["--recipe", "recipe.yaml", "--output", "new"]
    study = command in STUDIES
    if study:
        parser = parser_of_study(command)
        named = {action.dest for action in parser._actions}
        base = ["study", command, "--output", "studies"]
        base += [f"--{name}={value}" for name, value in STUDY.items() if name in named]
    elif command == "fit":
        parser = parser_of_fit()
        base = ["fit", "--config", "recipe.yaml", "--trainer.max_steps", "1"]
    else:
        parser = cli.command_parser(command)
        base = {
            "prepare": ["prepare", "--destination", "new", "--overwrite", "true", *CORPUS],
            "translate": ["translate", "--checkpoint", "run/last.ckpt"],
            "average": ["average", "--folder", "run", "--output", "new.ckpt"],
            "profile": ["profile", *recipe],
            "diagnose": ["diagnose", *recipe, "--largest_stable_rate=true", "--ramp_steps=2"],
            "compare": ["compare", *SHAPE, *CORPUS],
        }[command]
    given = [pair for pair in options(parser) if pair[0] not in ENDLESS]

    def one(drawn: tuple[str, str]) -> None:
        own = ["--output", f"runs-{len(outcomes)}"] if command == "compare" else []
        check(outcomes, *base, *own, f"{drawn[0]}={drawn[1]}")

    # Of a comparison, all but the trainings.
    with (
        mock.patch.object(compare, "_train_all"),
        mock.patch("admin_init.cli.commands._report", return_value=0),
    ):
        number = examine(one, st.sampled_from(given), tries(len(given), 2 if study else 4))
    fill(cells, f"Numbers given to `{' '.join(base[: 1 + study])}`", number, outcomes)
