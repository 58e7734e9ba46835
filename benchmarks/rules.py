"""Each way to start a deep model at its own best constant learning rate.

Every setting of a stabilizer is trained at rates an octave apart, then half an octave around the
best one, until the best rate lies inside of the rates that were tried; all rates with all seeds.
The settings are those of `admin-init compare`: a folder holds every run, so that the command goes
on where it was stopped. Prints a row of JSON for each finished run, or with --table such rows as a
table: the NLL of every seed at the best rate, and of the half octaves beside it.

    python benchmarks/rules.py --output runs/rules --depth 18-18 --width 32 > rules.jsonl
    python benchmarks/rules.py --table rules.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.result import Result
from admin_init.lab.comparison.runner import compare
from admin_init.translation.corpora.config import CorpusConfig

CENTRE = 2e-3


@dataclass(frozen=True)
class Setting:
    """One way to start a model: axes of a comparison, other than the rate and the seed."""

    name: str
    axes: dict[str, Any] = field(hash=False)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("Post-LN", {"residual": ["post"]}),
        Setting("Pre-LN", {"residual": ["pre"]}),
        Setting("reference", {"residual": ["admin"]}),
        *(
            Setting(f"share {share:g}", {"residual": ["admin-share"], "input_share": [share]})
            for share in (0.25, 0.5, 0.75)
        ),
        *(
            Setting(f"constant {omega:g}", {"residual": ["admin"], "omega": [omega]})
            for omega in (1.5, 2.0, 3.0, 4.0, 6.0)
        ),
        Setting("O(log n)", {"residual": ["admin-closed"]}),
        Setting("DeepNorm", {"residual": ["deepnorm"]}),
        *(
            Setting(f"Pre-LN, input x {scale:g}", {"residual": ["pre"], "input_scale": [scale]})
            for scale in (2.0, 3.0, 5.0, 8.0)
        ),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/rules"))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--depth", default="18-18")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--branch-scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after these")
    parser.add_argument("--table", nargs="+", type=Path, help="print the rows of these files")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(options.table)))
        return
    end = time.monotonic() + 60 * options.minutes
    for name in options.settings:
        search(options, SETTINGS[name], end)


def search(options: argparse.Namespace, setting: Setting, end: float) -> None:
    """Train a setting at more and more rates, until the best one lies inside of them."""
    tried: dict[int, float] = {}
    waiting: Sequence[int] = (0, 2)
    while waiting and time.monotonic() < end:
        results = run(options, setting, waiting)
        by_rate: dict[int, list[float]] = defaultdict(list)
        for result in results:
            step = round(2 * math.log2(result.variant.learning_rate / CENTRE))
            by_rate[step].append(result.val_nll if math.isfinite(result.val_nll) else math.inf)
            print(json.dumps(row_of(options, setting, result)), flush=True)
        tried |= {step: mean(nlls) for step, nlls in by_rate.items()}
        waiting = next_rates(tried)


def row_of(options: argparse.Namespace, setting: Setting, result: Result) -> dict[str, Any]:
    return {
        "setting": setting.name,
        "depth": options.depth,
        "width": options.width,
        "branches": options.branch_scale,
        "steps": options.steps,
        "rate": result.variant.learning_rate,
        "seed": result.variant.seed,
        "nll": round(result.val_nll, 4),
        "source gain": round(result.source_gain, 4),
        "trained": result.trained,
    }


def next_rates(tried: dict[int, float]) -> list[int]:
    """Return the half octaves beside the best rate, or an octave further, that were not tried."""
    best = min(tried, key=lambda step: (tried[step], step))
    if best in (min(tried), max(tried)):
        return [best - 2 if best == min(tried) else best + 2]
    return [step for step in (best - 1, best + 1) if step not in tried]


def run(options: argparse.Namespace, setting: Setting, steps: Iterable[int]) -> list[Result]:
    """Train a setting at rates that are half octaves from the middle one."""
    comparison = Comparison(
        output=str(options.output),
        corpus=CorpusConfig(kind="embedded", size="small", train=20000, valid=300, test=300),
        vocabulary_size=800,
        grid=Grid(
            depth=[options.depth],
            learning_rate=[float(f"{CENTRE * 2 ** (step / 2):.4g}") for step in steps],
            seed=options.seeds,
            **setting.axes,
        ),
        transformer={
            "dim": options.width,
            "ffn_dim": 4 * options.width,
            "heads": 4,
            "dropout": 0.0,
            "branch_scale": options.branch_scale,
        },
        optimization={"warmup_steps": 50, "schedule": "constant"},
        max_steps=options.steps,
        validate_every=options.steps // 2,
        workers=options.workers,
    )
    return compare(comparison, progress=False).results


def table(files: Sequence[Path]) -> list[str]:
    """Lay out the rows of files: a line for each setting, by its NLL at its best rate."""
    by_rate: dict[tuple[str, ...], dict[float, dict[int, float]]] = defaultdict(dict)
    for row in (json.loads(line) for file in files for line in file.read_text().splitlines()):
        key = (row["setting"], row["depth"], f"{row['width']}", f"{row['branches']:g}")
        by_rate[key].setdefault(row["rate"], {})[row["seed"]] = row["nll"]
    lines = []
    for key, rates in by_rate.items():
        means = {rate: mean(seeds.values()) for rate, seeds in sorted(rates.items())}
        best = min(means, key=means.__getitem__)
        seeds = ", ".join(f"{rates[best][seed]:.2f}" for seed in sorted(rates[best]))
        others = ", ".join(f"{r:g}: {nll:.2f}" for r, nll in means.items() if r != best)
        inside = min(means) < best < max(means)
        cells = [*key, f"{best:g}" + ("" if inside else ", at the edge"), seeds, others]
        lines.append((means[best], f"| {' | '.join(cells)} |"))
    head = ["setting", "depth", "width", "branches x", "best rate", "NLL of each seed", "others"]
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(line for _, line in sorted(lines)),
    ]


if __name__ == "__main__":
    main()
