"""Unite the runs that several computers have done of one comparison."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from admin_init.errors import AdminInitError
from admin_init.lab.compare import Outcome
from admin_init.lab.comparison import Comparison
from admin_init.lab.grid import Grid
from admin_init.lab.result import RESULT, Result, finished
from admin_init.lab.settings import check_unchanged, differences, read_settings, write_settings


class Merged(NamedTuple):
    """What the report is made from."""

    comparison: Comparison
    """Title and criteria are those of the first folder, the axes those of all of them."""
    outcome: Outcome
    """The errors name the runs that no folder has a result of."""


def merge(folders: Sequence[str], output: str) -> Merged:
    """Unite result folders of comparisons with the same settings into one.

    Everything but checkpoints is copied, so that TensorBoard shows all runs too.

    Args:
        folders: The folders that comparisons wrote: their `output`.
        output: The folder to write.

    Raises:
        AdminInitError: The settings or corpora of two folders differ, or the figures of a run that
            both have; a folder holds no comparison; or ``output`` is one of them, or of others.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise AdminInitError("`folders` must name at least one folder, but is empty.")
    if Path(output).resolve() in [path.resolve() for path in paths]:
        raise AdminInitError(f"`output` must not be one of the `folders`, but is {output}.")
    read = [read_settings(path) for path in paths]
    for path, settings in zip(paths[1:], read[1:], strict=True):
        _check_same(paths[0], *read[0], path, *settings)
    comparisons, (entropy, *_) = zip(*read, strict=True)
    comparison = replace(
        comparisons[0], output=output, share="1/1", grid=_united([c.grid for c in comparisons])
    )
    check_unchanged(comparison)
    runs = _runs(paths)
    for run, folder in runs.items():
        shutil.copytree(
            folder / run,
            Path(output) / run,
            ignore=shutil.ignore_patterns("*.ckpt"),
            dirs_exist_ok=True,
        )
    write_settings(comparison, entropy)
    wanted = dict.fromkeys(variant for c in comparisons for variant in c.grid.variants())
    others = (Result.load(folder / run / RESULT).variant for run, folder in runs.items())
    results = [finished(comparison, variant, entropy) for variant in wanted | dict.fromkeys(others)]
    missing = {v.name: "No folder has its result.\n" for v in wanted if v.name not in runs}
    return Merged(comparison, Outcome([r for r in results if r is not None], missing, entropy))


def _check_same(
    first: Path, one: Comparison, entropy: float, second: Path, other: Comparison, its: float
) -> None:
    differing = differences(asdict(one), other)
    # The corpus is named by the settings, but its files may be others.
    if not math.isclose(entropy, its):
        differing["unigram entropy of the corpus"] = (entropy, its)
    if differing:
        raise AdminInitError(
            f"{first} and {second} are comparisons of different settings: "
            + "; ".join(f"`{key}` is {a} and {b}" for key, (a, b) in differing.items())
            + ". Only runs that differ by their grid can be compared."
        )


def _united(grids: list[Grid]) -> Grid:
    axes: dict[str, Any] = {}
    for axis in fields(Grid):
        given = [values for grid in grids if (values := getattr(grid, axis.name)) is not None]
        axes[axis.name] = list(dict.fromkeys(v for values in given for v in values)) or None
    return Grid(**axes)


def _runs(folders: list[Path]) -> dict[str, Path]:
    """Return which folder each run is taken from."""
    runs: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*/{RESULT}")):
            run = path.parent.name
            before = runs.setdefault(run, folder)
            if _figures(before / run / RESULT) != _figures(path):
                raise AdminInitError(
                    f"{before / run} and {path.parent} have other figures of the same run. Keep "
                    "the one that is right, and remove the other."
                )
    return runs


def _figures(path: Path) -> str:
    """What the same run gives everywhere; as text, in which NaN equals NaN."""
    result = asdict(Result.load(path))
    # The verdict depends on the criteria, which are applied anew.
    return json.dumps(
        {k: v for k, v in result.items() if k not in ("seconds", "trained", "reason")}
    )
