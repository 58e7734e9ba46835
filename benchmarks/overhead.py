"""What Admin costs: its profile beside a bare forward, its step and its search beside Post-LN's.

CPU time, as ratios of pairs that run one right after the other, so that a machine whose speed
drifts does not decide. Each row has a control: Post-LN measured against itself in the same way.

    python benchmarks/overhead.py --pairs 100 --threads 1
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import admin_init
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.search import beam_search

VOCABULARY, SEED = 1000, 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--sentences", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, build in (("torch.nn", torch_model), ("admin_init.nn", native_model)):
        plain, twin, admin = (build(options.dim, options.layers) for _ in range(3))
        batch = tokens(options.sentences), tokens(options.sentences)
        omegas = admin_init.profile(admin, [batch])
        admin_init.apply_(admin, omegas)
        rows = {
            "profile / forward": (
                partial(admin_init.profile, plain, [batch]),
                forward(plain, batch),
            ),
            "control: forward / forward": (forward(twin, batch), forward(plain, batch)),
            "Admin step / Post-LN step": (step(admin, batch), step(plain, batch)),
            "control: Post-LN step / Post-LN step": (step(twin, batch), step(plain, batch)),
        }
        report(name, rows, options)
        if isinstance(admin, Transformer):
            admin_init.fold_(admin)
            rows = {
                "search, folded / Post-LN": (search(admin, batch), search(plain, batch)),
                "control: Post-LN / Post-LN": (search(twin, batch), search(plain, batch)),
            }
            report(name, rows, options)


Pair = tuple[Callable[[], object], Callable[[], object]]


def report(name: str, pairs: dict[str, Pair], options: argparse.Namespace) -> None:
    for what, (left, right) in pairs.items():
        ratios = paired(left, right, options.pairs)
        row = {
            "model": name,
            "measure": what,
            "median": round(statistics.median(ratios), 4),
            "quartiles": [round(q, 4) for q in statistics.quantiles(ratios)[::2]],
            **vars(options),
            "seed": SEED,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


def torch_model(dim: int, layers: int) -> nn.Module:
    torch.manual_seed(SEED)
    return TorchTranslator(dim, layers)


def native_model(dim: int, layers: int) -> nn.Module:
    torch.manual_seed(SEED)
    return Transformer(
        TransformerConfig(
            vocabulary_size=VOCABULARY,
            dim=dim,
            ffn_dim=4 * dim,
            heads=4,
            encoder_layers=layers,
            decoder_layers=layers,
        )
    )


class TorchTranslator(nn.Module):
    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, dim)
        # With its default, 1, logits are so large that gradients are subnormal numbers, which a CPU
        # multiplies many times more slowly.
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.transformer = nn.Transformer(
            dim, 4, layers, layers, 4 * dim, dropout=0.1, batch_first=True
        )
        # nn.Transformer ends each stack in a norm that no Post-LN paper has.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        states = self.transformer(
            self.embedding(source), self.embedding(target), tgt_mask=mask, tgt_is_causal=True
        )
        return states @ self.embedding.weight.T


def tokens(sentences: int) -> Tensor:
    return torch.randint(4, VOCABULARY, (sentences, 24))


def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            model(*batch)

    return run


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], object]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(*batch).flatten(0, 1), batch[1].flatten()).backward()
        optimizer.step()

    return run


def search(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], object]:
    # So short that no hypothesis of such models ends before: all searches take as many steps.
    return partial(beam_search, model, batch[0], max_len_b=16)


def paired(left: Callable[[], object], right: Callable[[], object], pairs: int) -> list[float]:
    """Time ``left`` and ``right`` in turn; which of them comes first alternates."""
    cpu_time(left), cpu_time(right)
    ratios = []
    for i in range(pairs):
        if i % 2:
            first, second = cpu_time(left), cpu_time(right)
        else:
            second, first = cpu_time(right), cpu_time(left)
        ratios.append(first / second)
    return ratios


def cpu_time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
