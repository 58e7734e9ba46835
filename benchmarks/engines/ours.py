"""This project: its Transformer in Lightning's Trainer, and its beam search."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from admin_init._utils.memory import keep_freed_memory
from admin_init.nn import Transformer, TransformerConfig, prepare_for_inference_
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.search import beam_search
from engines.loop import BETAS, LEARNING_RATE, SMOOTHING


class Training:
    """In float32."""

    precision: Any = "32-true"

    def __init__(self, config: TransformerConfig, data: Path) -> None:
        optimization = OptimizationConfig(
            learning_rate=LEARNING_RATE, betas=BETAS, warmup_steps=0, schedule="constant"
        )
        self.module = TranslationModule(config, optimization, label_smoothing=SMOOTHING)

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        keep_freed_memory()  # as the command line does
        clock = _Clock()
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", ".*does not have many workers")
        trainer = pl.Trainer(
            accelerator="cpu",
            precision=self.precision,
            max_epochs=1,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module, DataLoader(list(batches), batch_size=None))
        return clock.seconds


class TrainingBf16(Training):
    """In bfloat16, the weights in float32."""

    precision = "bf16-mixed"


class TrainingCompiled(Training):
    """In float32, compiled by ``torch.compile`` for batches of any shape."""

    def __init__(self, config: TransformerConfig, data: Path) -> None:
        super().__init__(config, data)
        self.module.transformer.compile(dynamic=True)


class _Clock(pl.Callback):
    begun = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.begun = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.begun


class Search:
    """The beam search that our Translator calls."""

    version = "this working tree"

    def __init__(self, model: Transformer, data: Path, beam_size: int, max_length: int) -> None:
        # As the command line does.
        keep_freed_memory()
        self.model = prepare_for_inference_(model)
        # fairseq forbids the padding alone.
        self.options: dict[str, Any] = {
            "beam_size": beam_size,
            "max_len_b": max_length,
            "forbidden": (),
        }

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        found = beam_search(self.model, batch.source, **self.options)
        return [hypotheses[0].tokens.tolist() for hypotheses in found]
