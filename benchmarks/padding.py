"""What it changes whether padding counts in a profile: the omegas, and the training that follows.

Models of admin_init on the embedded corpus, d 64. A mixed batch holds 64 sentences of any length,
padded to the longest or beyond. For each seed: the largest change of an omega by counting padding,
and, with --steps, the validation NLL after a training whose omegas come from either profile.

    python benchmarks/padding.py --layers 18 --steps 300
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import admin_init
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.preparation.prepare import prepare

VOCABULARY, PAD = 800, 1
Pair = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lengths", type=int, nargs="+", default=[0, 64, 128])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--corpus", type=int, default=20000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        corpus = CorpusConfig(train=options.corpus, valid=300, test=300).open()
        prepare(corpus, Path(folder) / "data-bin", vocabulary_size=VOCABULARY)
        for row in rows(Path(folder) / "data-bin", options):
            shown = {**row, "layers": options.layers, "torch": torch.__version__}
            print(json.dumps(shown | {"machine": platform.machine()}), flush=True)


def rows(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for seed in options.seeds:
        data = TranslationDataModule(folder, "en", "de", max_tokens=1024, seed=seed)
        batch = next(iter(data.train_dataloader()))
        cases = {"by length": (batch.source, batch.target_input)}
        cases |= {f"mixed, to {length}": mixed(data, seed, length) for length in options.lengths}
        for name, pair in cases.items():
            counted, left_out = (
                profile(seed, options.layers, pair, ignore=i) for i in (False, True)
            )
            yield {"seed": seed, "batch": name, **changes(pair, counted, left_out)}
        if options.steps:
            widest = mixed(data, seed, max(options.lengths))
            other = mixed(data, seed + 100, max(options.lengths))
            for name, pair, ignore in (
                ("counted", widest, False),
                ("left out", widest, True),
                ("control: left out, another batch", other, True),
            ):
                taken = profile(seed, options.layers, pair, ignore=ignore)
                yield {"seed": seed, "padding": name, "nll": train(taken, data, seed, options)}


def model_of(seed: int, layers: int) -> Transformer:
    torch.manual_seed(seed)
    config = TransformerConfig(
        vocabulary_size=VOCABULARY,
        dim=64,
        ffn_dim=256,
        heads=4,
        dropout=0.0,
        residual="admin",
        encoder_layers=layers,
        decoder_layers=layers,
    )
    return Transformer(config)


def mixed(data: TranslationDataModule, seed: int, length: int) -> Pair:
    """Return 64 sentence pairs of any length, padded to ``length`` at least."""
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(40), strict=False)]
    picked = np.random.default_rng(seed)
    sides = []
    for side in ([b.source for b in batches], [b.target_input for b in batches]):
        sentences = [row[row.ne(PAD)] for tensor in side for row in tensor]
        sides.append(sentences)
    chosen = picked.choice(len(sides[0]), 64, replace=False)
    source, target = (_padded([side[i] for i in chosen], length) for side in sides)
    return source, target


def _padded(sentences: Sequence[Tensor], length: int) -> Tensor:
    batch = nn.utils.rnn.pad_sequence(list(sentences), batch_first=True, padding_value=PAD)
    return F.pad(batch, (0, max(0, length - batch.shape[1])), value=PAD)


def profile(seed: int, layers: int, pair: Pair, *, ignore: bool) -> admin_init.AdminProfile:
    def masks(batch: Pair) -> dict[str, Tensor]:
        # With an axis for the channels: 64 sentences of 64 tokens would fit in either order.
        source, target = (tokens.eq(PAD).unsqueeze(-1) for tokens in batch)
        return {"encoder": source, "decoder": target}

    model = model_of(seed, layers)
    return admin_init.profile(model, [pair], ignore_padding=masks if ignore else None)


def changes(
    pair: Pair, counted: admin_init.AdminProfile, left_out: admin_init.AdminProfile
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stack, tensor in zip(("encoder", "decoder"), pair, strict=True):
        ratios = [
            one.omega / other.omega - 1
            for one, other in zip(counted.sites, left_out.sites, strict=True)
            if one.stack == stack
        ]
        found[f"padding, {stack}"] = round(tensor.eq(PAD).float().mean().item(), 3)
        found[f"largest change, {stack}"] = round(max(ratios, key=abs), 4)
    return found


def train(
    taken: admin_init.AdminProfile,
    data: TranslationDataModule,
    seed: int,
    options: argparse.Namespace,
) -> float:
    """Return the validation NLL, in nats per token, after a training from a profile's omegas."""
    model = admin_init.apply_(model_of(seed, options.layers), taken)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.02, total_iters=50)
    done = 0
    while done < options.steps:
        for batch in data.train_dataloader():
            loss = F.cross_entropy(
                model(batch.source, batch.target_input).flatten(0, 1),
                batch.target.flatten(),
                ignore_index=PAD,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            warmup.step()
            done += 1
            if done == options.steps:
                break
    return round(nll(model, data), 3)


@torch.no_grad()
def nll(model: nn.Module, data: TranslationDataModule) -> float:
    model.eval()
    total = tokens = 0.0
    for batch in data.val_dataloader():
        scores = model(batch.source, batch.target_input).flatten(0, 1)
        target = batch.target.flatten()
        total += F.cross_entropy(scores, target, ignore_index=PAD, reduction="sum").item()
        tokens += target.ne(PAD).sum().item()
    return total / tokens


if __name__ == "__main__":
    main()
