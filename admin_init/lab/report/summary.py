"""The results of a comparison in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from admin_init.lab.comparison.result import Result
from admin_init.lab.report.groups import MOST_SETTINGS, Group, by_setting, groups, interval


def summary(results: Sequence[Result]) -> list[str]:
    """Report for each setting which styles trained, which is best, and why the others failed.

    With more than :data:`MOST_SETTINGS` settings, the sentences summarize all of them together.
    """
    settings = by_setting(groups(results))
    if len(settings) > MOST_SETTINGS:
        return _overall(settings)
    sentences = []
    for setting, found in settings.items():
        sentences += [_outcomes(setting, found), *_best(setting, found)]
        sentences += [_failure(group) for group in found if group.failure is not None]
    return sentences


def _overall(settings: dict[str, list[Group]]) -> list[str]:
    styles: dict[str, list[Group]] = {}
    for found in settings.values():
        for group in found:
            styles.setdefault(group.style, []).append(group)
    counts = {
        style: (sum(g.trained for g in found), sum(len(g.runs) for g in found))
        for style, found in styles.items()
    }
    ranked = sorted(counts, key=lambda style: -counts[style][0] / counts[style][1])
    listed = ", ".join(f"{style} {counts[style][0]} of {counts[style][1]}" for style in ranked)
    sentences = [f"Runs that trained, over {len(settings)} settings: {listed}."]
    for style in ranked:
        failed = [group for group in styles[style] if group.failure is not None]
        if failed:
            everywhere = sum(group.trained == 0 for group in failed)
            sentences.append(
                f"{style} failed in at least one seed at {len(failed)} of {len(styles[style])} "
                f"settings, in all seeds at {everywhere}; for example at {failed[0].setting}, "
                f"{_reason(failed[0])}."
            )
    return sentences


def _outcomes(setting: str, found: Sequence[Group]) -> str:
    shares: dict[str, list[str]] = {}
    for group in sorted(found, key=lambda group: -group.trained / len(group.runs)):
        seeds = len(group.runs)
        share = f"trained in {group.trained} of {seeds} {'seed' if seeds == 1 else 'seeds'}"
        shares.setdefault(share if group.trained else "failed in all seeds", []).append(group.style)
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
        remark = "; a single seed is not enough to rank them"
    else:
        remark = "" if apart else "; the seeds of the first two overlap, so neither is better"
    return [f"Lowest validation NLL at {setting}, in nats per token: {ranked}{remark}."]


def _failure(group: Group) -> str:
    failed, seeds = len(group.runs) - group.trained, len(group.runs)
    share = f"{failed} of {seeds} {'seed' if seeds == 1 else 'seeds'}"
    return f"{group.style} at {group.setting} failed in {share}; {_reason(group)}."


def _reason(group: Group) -> str:
    run = group.failure
    return "" if run is None else f"seed {run.variant.seed}: {run.reason}"
