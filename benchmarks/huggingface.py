"""What a profile of Hugging Face's models costs, beside a forward and beside a training step.

BERT-base and Marian-base, randomly initialized. CPU time as ratios of pairs that run one right
after the other, with a control; peak memory beyond the built model, each in a process of its own.

    python benchmarks/huggingface.py --pairs 10 --threads 1
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import platform
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from overhead import paired
from torch import Tensor, nn

import admin_init


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=BUILDS, default=list(BUILDS))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="processes per peak of memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.models:
        for measured in chain(cpu_times(name, options), peaks(name, options)):
            row = {
                "model": name,
                **measured,
                **{key: value for key, value in vars(options).items() if key != "models"},
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.processor() or platform.machine(),
            }
            print(json.dumps(row), flush=True)


def bert_base() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig())


def marian_base() -> nn.Module:
    """Build the shape of the OPUS-MT models."""
    shape = {
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in {"layers": 6, "attention_heads": 8, "ffn_dim": 2048}.items()
    }
    config = transformers.MarianConfig(
        vocab_size=58101,
        d_model=512,
        **shape,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=58100,
        eos_token_id=0,
        decoder_start_token_id=58100,
        forced_eos_token_id=0,
    )
    return transformers.MarianMTModel(config)


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "BERT-base": bert_base,
    "Marian-base": marian_base,
}


def build(name: str, options: argparse.Namespace) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(options.seed)
    model: Any = BUILDS[name]().train()
    ids = torch.randint(4, model.config.vocab_size - 1, (2, options.sentences, options.tokens))
    batch = {"input_ids": ids[0]}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids[1]
    return model, batch


def forward(model: nn.Module, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        model(**batch)


def profile(model: nn.Module, batch: dict[str, Tensor]) -> None:
    admin_init.profile(model, [batch])


def step(model: Any, batch: dict[str, Tensor]) -> None:
    labels = batch.get("decoder_input_ids", batch["input_ids"])
    model(**batch, labels=labels).loss.backward()
    torch.optim.AdamW(model.parameters()).step()


def cpu_times(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    model, batch = build(name, options)
    plain = partial(forward, model, batch)
    for what, left in {
        "CPU time: profile / forward": partial(profile, model, batch),
        "control: forward / forward": plain,
    }.items():
        ratios = paired(left, plain, options.pairs)
        yield {
            "measure": what,
            "median": round(statistics.median(ratios), 4),
            "quartiles": [round(q, 4) for q in statistics.quantiles(ratios)[::2]],
        }


def peaks(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    runs = {"forward": forward, "profile": profile, "training step": step}
    # A fresh interpreter each: what one has freed, the next would find.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for what, run in runs.items():
            mebibytes = [
                round(pool.apply(peak, (name, options, run))) for _ in range(options.repeats)
            ]
            yield {
                "measure": f"peak memory: {what}",
                "median MiB": statistics.median(mebibytes),
                "range": [min(mebibytes), max(mebibytes)],
            }


def peak(name: str, options: argparse.Namespace, run: Callable[..., None]) -> float:
    """Return how much more memory than the built model ``run`` takes, in MiB."""
    torch.set_num_threads(options.threads)
    model, batch = build(name, options)
    # What the libraries load at their first call is no part of it.
    profile(model, {key: ids[:1, :4] for key, ids in batch.items()})
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run(model, batch)
    return (resident("VmHWM") - before) / 1024


def resident(what: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
