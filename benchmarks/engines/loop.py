"""A plain training loop, for libraries that have none of their own or do without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admin_init.translation.data.batching import TranslationBatch
from engines.tokens import PAD

LEARNING_RATE, BETAS, SMOOTHING = 1e-4, (0.9, 0.98), 0.1


class Loop:
    """Trains a model; where it does not return logits, a subclass says what an update is."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0
        )

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        self.model.train()
        return timed(self.update, batches)

    def update(self, batch: TranslationBatch) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(
            self.logits(batch).flatten(0, 1),
            batch.target.flatten(),
            ignore_index=PAD,
            label_smoothing=SMOOTHING,
        ).backward()
        self.optimizer.step()

    def logits(self, batch: TranslationBatch) -> Tensor:
        raise NotImplementedError


def timed(update: Callable[[Any], object], batches: Iterable[Any]) -> float:
    """Update once a batch; return the seconds from the second update on."""
    first, *rest = batches
    update(first)
    begun = time.perf_counter()
    for batch in rest:
        update(batch)
    return time.perf_counter() - begun
