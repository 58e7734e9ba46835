"""AdminInit under DDP: how near its omegas are to one pass over all the data, and what they cost.

Each process has its own batch, the first one the largest. The profile is timed on rank 0 from
barrier to barrier, in training steps of the same run, the first step left out.

    python benchmarks/distributed.py --repetitions 15 --threads 1
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import admin_init
from admin_init import AdminInit, AdminProfile
from admin_init.adapters.discovery import resolve_sites
from admin_init.nn import Transformer, TransformerConfig

VOCABULARY = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--sentences", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    for processes in (1, 2, 3):
        ranks = train(options, processes)
        profile = AdminProfile.from_dict(ranks[0]["profile"])
        row = {
            "processes": processes,
            "omega, largest relative difference from one pass": difference(options, profile, ranks),
            "the same on all ranks": all(
                torch.equal(rank["omegas"], ranks[0]["omegas"]) for rank in ranks
            ),
            "profile in training steps": round(statistics.median(ranks[0]["ratios"]), 3),
            "quartiles": [round(q, 3) for q in statistics.quantiles(ranks[0]["ratios"])[::2]],
            **vars(options),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


class Translator(pl.LightningModule):
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.options = options
        self.transformer = Transformer(
            TransformerConfig(
                vocabulary_size=VOCABULARY,
                dim=options.dim,
                ffn_dim=4 * options.dim,
                heads=4,
                encoder_layers=options.layers,
                decoder_layers=options.layers,
                # Each process would draw its own.
                dropout=0.0,
            )
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        source, target = batch
        return F.cross_entropy(self.transformer(source, target).flatten(0, 1), target.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)

    def train_dataloader(self) -> DataLoader[Any]:
        size = sentences(self.options, self.global_rank)
        # The same batch at every step, so that steps are alike.
        tokens = [part.repeat(self.options.steps, 1) for part in batch_of(size, self.global_rank)]
        return DataLoader(TensorDataset(*tokens), batch_size=size)


def sentences(options: argparse.Namespace, rank: int) -> int:
    return options.sentences * (4 - rank) // 4


def batch_of(size: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    source, target = torch.randint(4, VOCABULARY, (2, size, 24), generator=generator)
    return source, target


class Clock(pl.Callback):
    """Two of them, around AdminInit, take its time and that of every step."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.strategy.barrier()
        self.starts.append(time.perf_counter())

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.strategy.barrier()
        self.ends.append(time.perf_counter())


class Results(pl.Callback):
    """Writes what each rank has seen: processes that Lightning forks hand nothing else back."""

    def __init__(self, admin: AdminInit, before: Clock, after: Clock, folder: str) -> None:
        self.admin, self.before, self.after, self.folder = admin, before, after, folder
        self.omegas = torch.empty(0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            sites = resolve_sites(module, self.admin.sites)
            self.omegas = torch.cat([s.omega.detach() for s in sites if s.omega is not None])

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps = [end - start for start, end in zip(self.after.starts, self.after.ends, strict=True)]
        profiling = self.after.starts[0] - self.before.starts[0]
        result = {
            "profile": self.admin.profile.to_dict() if self.admin.profile else None,
            "omegas": self.omegas.clone(),
            "ratio": profiling / statistics.median(steps[1:]),
        }
        torch.save(result, f"{self.folder}/rank{trainer.global_rank}.pt")


def train(options: argparse.Namespace, processes: int) -> list[dict[str, Any]]:
    """Return each rank's last profile and omegas, and all its ratios."""
    ratios: list[list[float]] = [[] for _ in range(processes)]
    for _ in range(options.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            admin, before, after = AdminInit(), Clock(), Clock()
            pl.Trainer(
                accelerator="cpu",
                devices=processes,
                strategy="ddp_fork" if processes > 1 else "auto",
                max_steps=options.steps,
                use_distributed_sampler=False,
                callbacks=[before, admin, after, Results(admin, before, after, folder)],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(Translator(options))
            ranks = [
                torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True)
                for rank in range(processes)
            ]
        for rank, result in enumerate(ranks):
            ratios[rank].append(result["ratio"])
    return [{**result, "ratios": ratios[rank]} for rank, result in enumerate(ranks)]


def difference(
    options: argparse.Namespace, profile: AdminProfile, ranks: list[dict[str, Any]]
) -> float:
    batches = [batch_of(sentences(options, rank), rank) for rank in range(len(ranks))]
    union = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = admin_init.profile(Translator(options).transformer, [union])
    pairs = zip(profile.sites, expected.sites, strict=True)
    return float(f"{max(abs(site.omega / other.omega - 1) for site, other in pairs):.1e}")


if __name__ == "__main__":
    main()
