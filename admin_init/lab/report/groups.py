"""Groups of runs that differ only in their seed, and their names in a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from admin_init.lab.comparison.grid import AXES, Variant
from admin_init.lab.comparison.result import Result

_TITLES = {
    "post": "Post-LN",
    "pre": "Pre-LN",
    "pre-share": "Pre-LN, share",
    "admin": "Admin",
    "admin-share": "Admin, share",
    "admin-closed": "Admin O(log n)",
    "admin-closed-constant": "Admin O(1)",
    "deepnorm": "DeepNorm",
    "rezero": "ReZero",
    "t-fixup": "T-Fixup",
    "layerscale": "LayerScale",
    "sub-ln": "Sub-LN",
    "b2t": "B2T",
    "b2t-scaled": "B2T scaled",
    "resi-dual": "ResiDual",
    "peri-ln": "Peri-LN",
    "lns": "LNS",
    "keel": "KEEL",
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one point of the grid, one per seed."""

    style: str
    """Residual style, as its paper writes it."""
    setting: str
    """The depth, and the values of the other axes that differ between groups."""
    setting_without_lr: str
    """The setting without the learning rate."""
    runs: list[Result]

    @property
    def trained(self) -> int:
        """Number of seeds that trained."""
        return sum(run.trained for run in self.runs)

    @property
    def failure(self) -> Result | None:
        """The first run that failed; None if all trained."""
        return next((run for run in self.runs if not run.trained), None)

    @property
    def nlls(self) -> list[float]:
        """Final validation NLLs."""
        return [run.val_nll for run in self.runs]


MOST_SETTINGS = 6
"""Maximum number of settings that are drawn and described one by one."""


def groups(results: Sequence[Result]) -> list[Group]:
    """Group runs by everything but the seed, in the order of the results."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.variant.group, []).append(result)
    variants = [result.variant for result in results]
    rates = len({variant.learning_rate for variant in variants}) > 1
    varied = [name for name in AXES if len({v.others.get(name) for v in variants}) > 1]
    return [
        Group(
            style=_TITLES.get(runs[0].variant.residual, runs[0].variant.residual),
            setting=_setting(runs[0].variant, rate=rates, varied=varied),
            setting_without_lr=_setting(runs[0].variant, rate=False, varied=varied),
            runs=runs,
        )
        for runs in found.values()
    ]


def by_setting(found: Sequence[Group]) -> dict[str, list[Group]]:
    """Collect the groups of each setting, which differ only in their style."""
    settings: dict[str, list[Group]] = {}
    for group in found:
        settings.setdefault(group.setting, []).append(group)
    return settings


def over_rates(found: Sequence[Group]) -> dict[str, dict[str, list[Group]]]:
    """Collect the groups that differ only in their learning rate, by setting and style."""
    settings: dict[str, dict[str, list[Group]]] = {}
    for group in found:
        settings.setdefault(group.setting_without_lr, {}).setdefault(group.style, []).append(group)
    return settings


def interval(values: Sequence[float], digits: int) -> str:
    """Format the mean over seeds, with the smallest and the largest value in brackets."""
    if not values:
        return ""
    # Values that are not finite have no mean.
    if not all(map(math.isfinite, values)):
        return ", ".join(f"{value:.{digits}f}" for value in values)
    mean, low, high = statistics.fmean(values), min(values), max(values)
    texts = [f"{value:.{digits}f}" for value in (mean, low, high)]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]}-{texts[2]})"


def _setting(variant: Variant, *, rate: bool, varied: Sequence[str]) -> str:
    parts = [f"{variant.depth} layers"]
    if rate:
        parts.append(f"learning rate {variant.learning_rate:g}")
    # In a merged report, a run may lack an axis that other runs have.
    given = [name for name in varied if name in variant.others]
    return ", ".join([*parts, *(AXES[name].title.format(variant.others[name]) for name in given)])
