"""Decoding speed of several libraries: the same weights, the same batches, in turns.

Sentences a second, as the median over rounds. A round translates the batches of the test split with
all engines, each in its own process, one right after the other on each batch, so that a machine
whose speed drifts does not decide; where other work runs on the machine, `--clock cpu` leaves it
out. Ratios are medians over the rounds' own ratios. `equal to ours` counts the sentences whose best
hypothesis is, token for token, the one that ours finds.

    python benchmarks/decoding.py --data data-bin/multi30k --checkpoint last.ckpt --rounds 5
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections import Counter
from pathlib import Path

import torch
from engines.decoding import CLOCKS, ENGINES, TimedEngine
from engines.process import EngineProcess
from rounds import ratios

from admin_init.translation.data.datamodule import TranslationDataModule


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    installed = [name for name, origin in ENGINES.items() if origin.installed()]
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder, en to de")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="of a TranslationModule, Post-LN or Admin"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=installed)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, help="of the test split; all of them if left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    data = TranslationDataModule(options.data, "en", "de", max_tokens=options.max_tokens)
    batches = list(data.test_dataloader())[: options.batches]
    sentences = sum(len(batch.source) for batch in batches)
    arguments = (options.checkpoint, options.data, options.beam, options.clock)
    engines = {
        name: EngineProcess(options.threads, options.seed, TimedEngine, name, *arguments)
        for name in options.engines
    }
    for engine in engines.values():
        engine("translate", batches[0])  # what is done once is not timed
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    translations: dict[str, list[list[int]]] = {}
    for round_ in range(options.rounds):
        spent: Counter[str] = Counter()
        translations = {name: [] for name in engines}
        # Who comes first alternates.
        order = list(engines.items())[:: -1 if round_ % 2 else 1]
        for batch in batches:
            for name, engine in order:
                found, seconds = engine("translate", batch)
                translations[name] += found
                spent[name] += seconds
        for name in engines:
            speeds[name].append(sentences / spent[name])
    for name, measured in speeds.items():
        row = {
            "engine": name,
            "version": engines[name]("version"),
            "sentences a second": round(statistics.median(measured), 1),
            "in each round": [round(speed, 1) for speed in measured],
            **ratios(name, speeds),
            "peak memory, MiB": engines[name].peak_memory(),
            "sentences": sentences,
            "tokens": sum(map(len, translations[name])),
            **equal(translations, name),
            **{k: str(v) for k, v in vars(options).items() if k not in ("engines", "rounds")},
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


def equal(translations: dict[str, list[list[int]]], name: str) -> dict[str, int]:
    """Count the sentences for which an engine finds what ours does, where ours is measured too."""
    if "ours" not in translations:
        return {}
    pairs = zip(translations["ours"], translations[name], strict=True)
    return {"equal to ours": sum(one == other for one, other in pairs)}


if __name__ == "__main__":
    main()
