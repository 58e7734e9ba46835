"""Merge the runs of one comparison that several computers trained."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from admin_init._utils.atomic_files import write_whole
from admin_init.errors import AdminInitError, require_extra
from admin_init.lab.comparison.config import (
    Comparison,
    check_unchanged,
    differences,
    read_settings,
    write_settings,
)
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.result import RESULT, Result, load_result
from admin_init.lab.comparison.runner import Outcome


class Merged(NamedTuple):
    """A merged comparison and its results, from which the report is made."""

    comparison: Comparison
    """Settings: title and criteria of the first folder, the axes of all folders combined."""
    outcome: Outcome
    """Results. The errors name the runs of which no folder has a usable result."""


def merge(folders: Sequence[str], output: str) -> Merged:
    """Merge result folders of comparisons that have the same settings.

    Everything except checkpoints is copied, so that TensorBoard shows all runs too.

    Args:
        folders: Output folders of the comparisons.
        output: Folder to write.

    Raises:
        AdminInitError: Two folders differ in their settings, their corpus, or the result of a run
            that both have; a folder holds no comparison; or ``output`` is one of the folders, or
            holds runs with other settings.
        MissingExtraError: The extra ``lab`` is not installed.
    """
    require_extra("lab")
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
        comparisons[0], output=output, share="1/1", grid=_merged_grid([c.grid for c in comparisons])
    )
    check_unchanged(comparison)
    runs, faults = _runs(paths)
    for run, (folder, _) in runs.items():
        shutil.copytree(
            folder / run,
            Path(output) / run,
            ignore=_not_copied,
            copy_function=_copy,
            dirs_exist_ok=True,
        )
    write_settings(comparison, entropy)
    wanted = [variant for c in comparisons for variant in c.grid.variants()]
    there = dict.fromkeys([*wanted, *(result.variant for _, result in runs.values())])
    results = [
        load_result(comparison, variant, entropy) for variant in there if variant.name in runs
    ]
    missing = {v.name: "No folder has its result.\n" for v in wanted if v.name not in runs}
    return Merged(
        comparison, Outcome([r for r in results if r is not None], missing | faults, entropy)
    )


def _check_same(
    first: Path, one: Comparison, entropy: float, second: Path, other: Comparison, its: float
) -> None:
    differing = differences(asdict(one), other)
    # The settings only name the corpus; its files may differ.
    if not math.isclose(entropy, its):
        differing["unigram entropy of the corpus"] = (entropy, its)
    if differing:
        raise AdminInitError(
            f"{first} and {second} are comparisons with different settings: "
            + "; ".join(f"`{key}` is {a} and {b}" for key, (a, b) in differing.items())
            + ". Only comparisons that differ in nothing but their grid can be merged."
        )


def _merged_grid(grids: list[Grid]) -> Grid:
    axes: dict[str, Any] = {}
    for axis in fields(Grid):
        given = [values for grid in grids if (values := getattr(grid, axis.name)) is not None]
        axes[axis.name] = list(dict.fromkeys(v for values in given for v in values)) or None
    return Grid(**axes)


def _runs(folders: list[Path]) -> tuple[dict[str, tuple[Path, Result]], dict[str, str]]:
    """Return the folder and the result of each usable run, and the errors of the other runs."""
    runs: dict[str, tuple[Path, Result]] = {}
    faults: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*/{RESULT}")):
            run = path.parent.name
            try:
                result = _load(path)
            except (AdminInitError, OSError) as error:
                faults[run] = f"{error} Run that comparison again; it resumes the run.\n"
                continue
            before, its = runs.setdefault(run, (folder, result))
            if _figures(its) != _figures(result):
                raise AdminInitError(
                    f"{before / run} and {path.parent} have different results of the same run. "
                    "Keep the correct one, and remove the other."
                )
    for run in faults.keys() & runs.keys():
        sys.stderr.write(f"{faults.pop(run)}{run} is taken from {runs[run][0]}.\n")
    return runs, faults


def _load(path: Path) -> Result:
    if path.is_symlink() or not path.is_file():
        raise AdminInitError(f"{path} cannot be used: it is a link, or not a regular file.")
    return Result.load(path)


def _figures(result: Result) -> str:
    """Return the reproducible part of a result, as text because there NaN equals NaN."""
    # The verdict depends on the criteria, which the merged comparison applies again.
    return json.dumps(
        {k: v for k, v in result.to_dict().items() if k not in ("seconds", "trained", "reason")}
    )


def _not_copied(folder: str, names: list[str]) -> list[str]:
    """Name what is not copied: checkpoints, hidden files, links and special files."""
    paths = [Path(folder) / name for name in names]
    strange = [p for p in paths if p.is_symlink() or not (p.is_file() or p.is_dir())]
    for path in strange:
        sys.stderr.write(f"{path} is not copied: it is a link, or not a regular file.\n")
    large = [path for path in paths if path.suffix == ".ckpt" or path.name.startswith(".")]
    return [path.name for path in (*strange, *large)]


def _copy(source: str, destination: str) -> None:
    with Path(source).open("rb") as original:
        write_whole(destination, lambda copy: shutil.copyfileobj(original, copy))
