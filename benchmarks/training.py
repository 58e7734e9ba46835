"""Training speed of several libraries: the same model, the same batches, in turns.

Target tokens a second (padding not counted), as the median over rounds; every round runs all
engines one after the other on the same batches, so that a machine whose speed drifts does not
decide. Ratios are medians over the rounds' own ratios.

    python benchmarks/training.py --data data-bin/multi30k --rounds 5
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from itertools import islice
from pathlib import Path

import torch
from engines.training import ENGINES, PAD, Shape

from admin_init.translation.datamodule import TranslationDataModule


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder, en to de")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="of each engine in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = TranslationDataModule(
        options.data, "en", "de", max_tokens=options.max_tokens, seed=options.seed
    )
    shape = Shape(
        vocabulary=data.vocabulary_size,
        dim=options.dim,
        ffn_dim=4 * options.dim,
        heads=options.heads,
        encoder_layers=options.layers,
        decoder_layers=options.layers,
        dropout=options.dropout,
    )
    torch.manual_seed(options.seed)
    engines = {name: ENGINES[name](shape, options.data) for name in options.engines}
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    batches = iter(data.train_dataloader())
    for _ in range(options.rounds):
        # The first update of a round is not timed.
        chosen = list(islice(batches, options.updates + 1))
        tokens = sum(int(batch.target.ne(PAD).sum()) for batch in chosen[1:])
        for name, engine in engines.items():
            speeds[name].append(tokens / engine.train(chosen))
    for name, measured in speeds.items():
        ratios = {
            f"over {other}": round(statistics.median(map(float.__truediv__, measured, theirs)), 3)
            for other, theirs in speeds.items()
            if other != name
        }
        row = {
            "engine": name,
            "target tokens a second": round(statistics.median(measured)),
            "rounds": [round(speed) for speed in measured],
            **ratios,
            **{key: str(value) for key, value in vars(options).items() if key != "engines"},
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
