"""Studies as a step of a comparison: what its styles do before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from admin_init.files import read_json
from admin_init.lab.comparison import Comparison
from admin_init.lab.studies import STUDIES


class Step(NamedTuple):
    """A study of a comparison, as its report shows it."""

    name: str
    summary: list[dict[str, str]]
    sentences: list[str]
    picture: Path


def run_studies(comparison: Comparison) -> None:
    """Run the studies that the comparison asks for; those done before are kept."""
    for name in comparison.studies:
        folder = _folder(comparison, name)
        styles, seeds = comparison.grid.residual, comparison.grid.seed
        before = folder / f"{name}.json"
        if before.exists():
            rows = read_json(before)["rows"]
            measured = {row["style"] for row in rows}, {row["seed"] for row in rows}
            if measured == (set(styles), set(seeds)):
                continue
        found = STUDIES[name](
            output=str(folder),
            residuals=styles,
            seeds=seeds,
            dim=comparison.transformer.get("dim", 32),
        )
        found.save(folder)


def studied(comparison: Comparison) -> list[Step]:
    """Read what :func:`run_studies` found."""
    steps = []
    for name in comparison.studies:
        folder = _folder(comparison, name)
        if (folder / f"{name}.json").exists():
            found: dict[str, Any] = read_json(folder / f"{name}.json")
            steps.append(Step(name, found["summary"], found["sentences"], folder / f"{name}.png"))
    return steps


def _folder(comparison: Comparison, name: str) -> Path:
    return Path(comparison.output) / "studies" / name
