"""What StabilityMonitor costs: training with it, at its default interval, beside training without.

CPU time, as ratios of pairs that run one right after the other, so that a machine whose speed
drifts does not decide. The control is training without it, measured against itself.

    python benchmarks/monitor.py --pairs 10 --steps 100 --threads 1
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from overhead import paired
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from admin_init.callbacks.stability_monitor import StabilityMonitor
from admin_init.nn import Transformer, TransformerConfig

VOCABULARY = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--sentences", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    plain = partial(train, options, monitored=False)
    rows: dict[str, Callable[[], object]] = {
        "training with StabilityMonitor / without": partial(train, options, monitored=True),
        "control: training / training": plain,
    }
    for what, left in rows.items():
        ratios = paired(left, plain, options.pairs)
        row = {
            "measure": what,
            "median": round(statistics.median(ratios), 4),
            "quartiles": [round(q, 4) for q in statistics.quantiles(ratios)[::2]],
            **vars(options),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(row), flush=True)


class Translator(pl.LightningModule):
    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.transformer = Transformer(
            TransformerConfig(
                vocabulary_size=VOCABULARY,
                dim=dim,
                ffn_dim=4 * dim,
                heads=4,
                encoder_layers=layers,
                decoder_layers=layers,
            )
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        source, target = batch
        return F.cross_entropy(self.transformer(source, target).flatten(0, 1), target.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


def train(options: argparse.Namespace, *, monitored: bool) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(4, VOCABULARY, (2, options.steps * options.sentences, 24))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=options.steps,
            logger=TensorBoardLogger(folder),
            callbacks=[StabilityMonitor()] if monitored else [],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader(TensorDataset(*tokens), batch_size=options.sentences)
        trainer.fit(Translator(options.dim, options.layers), data)


if __name__ == "__main__":
    main()
