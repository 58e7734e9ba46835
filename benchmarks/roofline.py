"""How near training comes to what the machine's matrix products allow, and where the rest goes.

The peak is that of one large product (float32 or bfloat16, as the training), measured in turns
with the training. The work of an update is counted from the model's shape, padding included: each
weight of a matrix takes 6 FLOP a token, forward and backward, and each of an attention's two
products takes 2 T S D forward and twice that backward.

    python benchmarks/roofline.py --data data-bin/multi30k_8k
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch
from engines.training import Engine, add_options, build, model_of
from torch.profiler import ProfilerActivity, profile

from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.datamodule import TranslationDataModule

KINDS = {"float32": ("ours", torch.float32), "bfloat16": ("ours, bf16", torch.bfloat16)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder, en to de")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=5, help="in a round")
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    data = TranslationDataModule(
        options.data, "en", "de", max_tokens=options.max_tokens, seed=options.seed
    )
    config = model_of(options, data.vocabulary_size)
    for kind in options.kinds:
        name, dtype = KINDS[kind]
        engine = build(name, config, options.data)
        batches = iter(data.train_dataloader())
        peaks, speeds = [], []
        for _ in range(options.rounds):
            chosen = list(islice(batches, options.updates + 1))
            peaks.append(peak(dtype))
            seconds = engine.train(chosen)
            speeds.append(sum(flop(config, batch) for batch in chosen[1:]) / seconds)
        shares = [speed / best for speed, best in zip(speeds, peaks, strict=True)]
        row = {
            "kind": kind,
            "peak, GFLOP a second": round(statistics.median(peaks) / 1e9, 1),
            "training, GFLOP a second": round(statistics.median(speeds) / 1e9, 1),
            "share": round(statistics.median(shares), 3),
            "shares": [round(share, 3) for share in shares],
            "where the time goes": dict(spent(engine, chosen[:3])),
            **{key: str(value) for key, value in vars(options).items() if key != "kinds"},
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


def flop(config: TransformerConfig, batch: TranslationBatch) -> float:
    """Count the floating-point operations of one update on ``batch``."""
    (sentences, s), t = batch.source.shape, batch.target.shape[1]
    d, layer = config.dim, 4 * config.dim**2 + 2 * config.dim * config.ffn_dim
    source = config.encoder_layers * layer + config.decoder_layers * 2 * d**2
    target = config.decoder_layers * (layer + 2 * d**2) + config.vocabulary_size * d
    weights = 6 * sentences * (s * source + t * target)
    pairs = config.encoder_layers * s**2 + config.decoder_layers * (t**2 + t * s)
    return weights + 3 * 4 * sentences * pairs * d


def peak(dtype: torch.dtype, size: int = 2048) -> float:
    """Measure the FLOP a second of a product of two large matrices: the best of ten."""
    left, right = torch.randn(2, size, size).to(dtype)
    return 2 * size**3 / min(seconds(lambda: left @ right) for _ in range(10))


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def spent(engine: Engine, batches: Sequence[TranslationBatch]) -> list[tuple[str, float]]:
    """Profile some updates; return the ten operators that take most, and their shares."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        engine.train(batches)
    operators = sorted(trace.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in operators)
    return [(row.key, round(row.self_cpu_time_total / total, 3)) for row in operators[:10]]


if __name__ == "__main__":
    main()
