"""Studies of a comparison's residual styles at initialization, for its report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict

from admin_init._utils.atomic_files import read_checked, set_aside
from admin_init._utils.typed_json import from_json
from admin_init.errors import AdminInitError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.studies import STUDIES


class Step(NamedTuple):
    """A study as the report of a comparison shows it."""

    name: str
    summary: list[dict[str, str]]
    sentences: list[str]
    picture: Path


def run_studies(comparison: Comparison) -> None:
    """Run the studies of a comparison; keep those that are finished already."""
    for name in comparison.studies:
        folder = _folder(comparison, name)
        styles, seeds = comparison.grid.residual, comparison.grid.seed
        if _measured(folder / f"{name}.json") == (set(styles), set(seeds)):
            continue
        found = STUDIES[name](
            output=str(folder),
            residuals=styles,
            seeds=seeds,
            dim=comparison.transformer.get("dim", 32),
        )
        found.save(folder)


def _measured(path: Path) -> tuple[set[str], set[int]] | None:
    """Return the styles and seeds of a finished study; None if it is missing or unusable."""
    if not path.exists():
        return None
    try:
        rows = _load(path).rows
        return {row["style"] for row in rows}, {row["seed"] for row in rows}
    except AdminInitError as error:
        aside = set_aside(path)
        sys.stderr.write(f"{error} It was renamed to {aside.name}, and the study is repeated.\n")
        return None


def load_studies(comparison: Comparison) -> list[Step]:
    """Read the findings that :func:`run_studies` wrote."""
    steps = []
    for name in comparison.studies:
        folder = _folder(comparison, name)
        if (folder / f"{name}.json").exists():
            found = _load(folder / f"{name}.json")
            steps.append(Step(name, found.summary, found.sentences, folder / f"{name}.png"))
    return steps


@dataclass
class _Found:
    rows: list[_Row]
    summary: list[dict[str, str]]
    sentences: list[str]


class _Row(TypedDict):
    style: str
    seed: int


def _load(path: Path) -> _Found:
    return read_checked(path, partial(from_json, _Found))


def _folder(comparison: Comparison, name: str) -> Path:
    return Path(comparison.output) / "studies" / name
