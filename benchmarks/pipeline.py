"""The data path alone: padding, speed, and the time until training can begin.

Padding is a share of all tokens, source and target together. The first batch of a large corpus is
timed in a fresh process, from the data module to the batch, imports not counted.

    python benchmarks/pipeline.py --data data-bin/multi30k_8k --pairs 5000000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from synthetic import write_synthetic

from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.data.dictionary import Dictionary

PAD = Dictionary.pad
VOCABULARY = 32_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder, en to de")
    parser.add_argument("--pairs", type=int, default=5_000_000, help="of the large corpus")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    epochs = [epoch(options.data, options.max_tokens, options.seed) for _ in range(options.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder), pairs=options.pairs, vocabulary=VOCABULARY, seed=options.seed)
        first = [in_fresh_process(folder, options.max_tokens) for _ in range(options.rounds)]
    row = {
        "padding, share of all tokens": round(epochs[0][0], 4),
        "target tokens a second": round(statistics.median(speed for _, speed in epochs)),
        "seconds to the first batch": round(statistics.median(first), 3),
        "all": [round(seconds, 3) for seconds in first],
        **{key: str(value) for key, value in vars(options).items()},
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(row), flush=True)


def epoch(data: Path, max_tokens: int, seed: int) -> tuple[float, float]:
    """Load an epoch; return the share of padding, and target tokens a second."""
    loader = TranslationDataModule(
        data, "en", "de", max_tokens=max_tokens, seed=seed
    ).train_dataloader()
    begun = time.perf_counter()
    batches: list[TranslationBatch] = list(loader)
    seconds = time.perf_counter() - begun
    sides = [side for batch in batches for side in (batch.source, batch.target)]
    padding = sum(int(side.eq(PAD).sum()) for side in sides)
    tokens = sum(int(batch.target.ne(PAD).sum()) for batch in batches)
    return padding / sum(side.numel() for side in sides), tokens / seconds


def in_fresh_process(folder: str, max_tokens: int) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(first_batch, folder, max_tokens).result()


def first_batch(folder: str, max_tokens: int) -> float:
    begun = time.perf_counter()
    data = TranslationDataModule(folder, "en", "de", max_tokens=max_tokens)
    data.prepare_data()
    next(iter(data.train_dataloader()))
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
