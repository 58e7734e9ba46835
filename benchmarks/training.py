"""Training speed of several libraries: the same model, the same batches, in turns.

Target tokens a second (padding not counted), as the median over rounds; every round runs all
engines, each in its own process, one after the other on the same batches, so that a machine whose
speed drifts does not decide. Ratios are medians over the rounds' own ratios. Peak memory is that of
the engine's process, as Linux tells it.

    python benchmarks/training.py --data data-bin/multi30k_8k --rounds 5
    python benchmarks/training.py --synthetic 100000 --layers 18 --dim 64
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
from engines.process import EngineProcess
from engines.tokens import PAD
from engines.training import ENGINES, add_options, build, model_of
from rounds import ratios
from synthetic import write_synthetic

from admin_init.translation.data.datamodule import TranslationDataModule

VOCABULARY = 8_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    # Compiling takes minutes, and does not pay.
    installed = [
        name for name, origin in ENGINES.items() if origin.installed() and name != "ours, compiled"
    ]
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--data", type=Path, help="a prepared folder, en to de")
    corpus.add_argument("--synthetic", type=int, help="pairs of random words instead")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=installed)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="of each engine in a round")
    add_options(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.synthetic:
            write_synthetic(
                Path(folder), pairs=options.synthetic, vocabulary=VOCABULARY, seed=options.seed
            )
        measure(options, options.data or Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    data = TranslationDataModule(
        folder, "en", "de", max_tokens=options.max_tokens, seed=options.seed
    )
    config = model_of(options, data.vocabulary_size)
    engines = {
        name: EngineProcess(options.threads, options.seed, build, name, config, folder)
        for name in options.engines
    }
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    batches = iter(data.train_dataloader())
    for round_ in range(options.rounds):
        # The first update of a round is not timed.
        chosen = list(islice(batches, options.updates + 1))
        if len(chosen) <= options.updates:
            raise SystemExit(
                f"There are not enough batches for {options.rounds} rounds of {options.updates} "
                "updates and one that is not timed. Lower --rounds, --updates or --max-tokens."
            )
        tokens = sum(int(batch.target.ne(PAD).sum()) for batch in chosen[1:])
        # Who comes first alternates.
        for name, engine in list(engines.items())[:: -1 if round_ % 2 else 1]:
            speeds[name].append(tokens / engine("train", chosen))
    for name, measured in speeds.items():
        row = {
            "engine": name,
            "version": version(ENGINES[name].package),
            "target tokens a second": round(statistics.median(measured)),
            "in each round": [round(speed) for speed in measured],
            **ratios(name, speeds),
            "peak memory, MiB": engines[name].peak_memory(),
            **{key: str(value) for key, value in vars(options).items() if key != "engines"},
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
