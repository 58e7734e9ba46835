"""What came of a comparison, in plain language."""

from __future__ import annotations

import math
from collections.abc import Sequence

from admin_init.lab.groups import Group, by_setting, groups, interval
from admin_init.lab.result import Result
from admin_init.measures import lr_sensitivity


def summary(results: Sequence[Result]) -> list[str]:
    """Say how the styles fared in each setting, and why those that failed are said to have."""
    sentences = []
    for setting, found in by_setting(groups(results)).items():
        sentences += [_outcomes(setting, found), *_best(setting, found)]
        sentences += [_failure(group) for group in found if group.failure is not None]
    return sentences


def sensitivities(results: Sequence[Result]) -> list[str]:
    """Say how sensitive each style is to the learning rate, where several were tried.

    See :func:`admin_init.measures.lr_sensitivity`; runs without an initial NLL are left out.
    """
    measured: dict[tuple[str, str], dict[int, dict[float, float]]] = {}
    initial: dict[tuple[str, str, int], float] = {}
    for group in groups(results):
        for run in group.runs:
            if run.initial_nll is not None and math.isfinite(run.initial_nll):
                key = group.style, f"{run.depth} layers"
                measured.setdefault(key, {}).setdefault(run.seed, {})[run.learning_rate] = (
                    run.val_nll
                )
                initial[(*key, run.seed)] = run.initial_nll
    sentences = []
    for (style, depth), seeds in measured.items():
        rates = set.union(*(set(losses) for losses in seeds.values()))
        if len(rates) > 1 and all(set(losses) == rates for losses in seeds.values()):
            values = [
                lr_sensitivity(losses, initial[style, depth, seed])
                for seed, losses in seeds.items()
            ]
            sentences.append(
                f"{style} at {depth}: learning-rate sensitivity {interval(values, 3)} nats over "
                f"{len(rates)} rates from {min(rates):g} to {max(rates):g}."
            )
    return sentences


def _outcomes(setting: str, found: Sequence[Group]) -> str:
    shares: dict[str, list[str]] = {}
    for group in sorted(found, key=lambda group: -group.trained / len(group.runs)):
        seeds = len(group.runs)
        share = f"trained in {group.trained} of {seeds} {'seed' if seeds == 1 else 'seeds'}"
        shares.setdefault(share if group.trained else "failed in all", []).append(group.style)
    parts = [f"{share}: {', '.join(styles)}" for share, styles in shares.items()]
    return f"At {setting}, {'; '.join(parts)}."


def _best(setting: str, found: Sequence[Group]) -> list[str]:
    """Rank the styles that trained in all seeds."""
    good = sorted(
        (group for group in found if group.trained == len(group.runs)),
        key=lambda group: sum(group.nlls) / len(group.nlls),
    )
    if len(good) < 2:
        return []
    first, second = good[:2]
    ranked = ", ".join(f"{group.style} {interval(group.nlls, 2)}" for group in good[:3])
    apart = max(first.nlls) < min(second.nlls)
    if min(len(first.runs), len(second.runs)) == 1:
        remark = "; with a single seed that is no claim"
    else:
        remark = "" if apart else "; the seeds of the first two overlap, so neither is better"
    return [f"Lowest validation NLL at {setting}, in nats per token: {ranked}{remark}."]


def _failure(group: Group) -> str:
    run = group.failure
    reason = "" if run is None else f"seed {run.seed}: {run.reason}"
    failed, seeds = len(group.runs) - group.trained, len(group.runs)
    return f"{group.style} at {group.setting} failed in {failed} of {seeds}; {reason}."
