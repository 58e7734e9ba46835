"""Four ways to translate the same batches with the same weights."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import admin_init
from admin_init._utils.checkpoints import has_omegas, read_checkpoint
from admin_init.nn import Transformer
from admin_init.translation.checkpoint import load_module
from admin_init.translation.data.batching import TranslationBatch
from engines.origin import Origin

ENGINES = {
    "ours": Origin("admin_init", "ours", "Search"),
    "fairseq": Origin("fairseq", "fairseq", "Search"),
    "HF Marian": Origin("transformers", "marian", "Search"),
    "CTranslate2": Origin("ctranslate2", "ctranslate2", "Search"),
}

MAX_LENGTH = 200
"""Tokens of the longest translation, ``</s>`` not counted: the default of ours and of fairseq."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Engine(Protocol):
    """One library's model and search."""

    version: str

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        """Return the best hypothesis of every sentence, ``</s>`` included."""
        ...


class TimedEngine:
    """The engine of one name, and a clock.

    Args:
        name: One of :data:`ENGINES`.
        checkpoint: Of a TranslationModule, Post-LN or Admin.
        data: The prepared folder.
        beam_size: Number of hypotheses per sentence.
        clock: One of :data:`CLOCKS`.
    """

    def __init__(self, name: str, checkpoint: Path, data: Path, beam_size: int, clock: str) -> None:
        search = ENGINES[name].load()
        self.engine: Engine = search(plain(checkpoint), data, beam_size, MAX_LENGTH)
        self.clock = CLOCKS[clock]

    def version(self) -> str:
        return self.engine.version

    def translate(self, batch: TranslationBatch) -> tuple[list[list[int]], float]:
        """Return what the engine finds, and the seconds that it takes."""
        begun = self.clock()
        found = self.engine.translate(batch)
        return found, self.clock() - begun


def plain(checkpoint: Path) -> Transformer:
    """Read our model, in eval mode, its omegas folded: other libraries have no place for them."""
    module = load_module(read_checkpoint(checkpoint))
    model = module.transformer
    assert isinstance(model, Transformer)
    if has_omegas(model.state_dict()):
        admin_init.fold_(model)
        model.config = replace(model.config, residual="post")
    return model.eval()
