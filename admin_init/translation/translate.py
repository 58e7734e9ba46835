"""Translate plain text with a trained checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from admin_init.checkpoints import read_checkpoint
from admin_init.errors import AdminInitError
from admin_init.nn import Transformer, prepare_for_inference_
from admin_init.translation.batching import collate
from admin_init.translation.checkpoint import load_model
from admin_init.translation.memory import keep_freed_memory
from admin_init.translation.subwords import Subwords


class Translator:
    """Turns lines into their translations.

    The process keeps the memory that it frees, see :func:`keep_freed_memory`, and the model is made
    ready for inference only, see :func:`~admin_init.nn.prepare_for_inference_`.

    Args:
        checkpoint: Path of a checkpoint of :class:`TranslationModule`.
        data: The folder that it was trained on; by default the one the checkpoint remembers.
        beam_size: Overrules that of the checkpoint.
        length_penalty: Overrules that of the checkpoint.

    Raises:
        AdminInitError: The checkpoint or the folder cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        data: str | os.PathLike[str] | None = None,
        beam_size: int | None = None,
        length_penalty: float | None = None,
    ) -> None:
        keep_freed_memory()
        saved = read_checkpoint(checkpoint)
        self.module = load_model(saved)
        if isinstance(self.module.transformer, Transformer):
            prepare_for_inference_(self.module.transformer)
        settings = dict(saved.get("datamodule_hyper_parameters", {}))
        if data is not None:
            settings["data"] = data
        if not {"data", "source_lang", "target_lang"} <= settings.keys():
            raise AdminInitError(
                f"{checkpoint} does not say which data it was trained on. Give the prepared folder "
                "as `data`."
            )
        self.data = Subwords(settings["data"], settings["source_lang"], settings["target_lang"])
        self.module.data = self.data
        known, ids = self.module.config.vocabulary_size, self.data.vocabulary_size
        if known != ids:
            raise AdminInitError(
                f"{checkpoint} was trained with {known} subwords, but {settings['data']} has "
                f"{ids}. Give the prepared folder that it was trained on as `data`."
            )
        overrules: dict[str, Any] = {"beam_size": beam_size, "length_penalty": length_penalty}
        self.module.search = replace(
            self.module.search, **{k: v for k, v in overrules.items() if v is not None}
        )

    def __call__(self, lines: Iterable[str], batch_size: int = 64) -> Iterator[str]:
        """Translate lines, in their order, some at a time; an empty line stays empty.

        Raises:
            AdminInitError: A line is longer than the model's positions.
            ValueError: ``batch_size`` is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, but is {batch_size}.")
        lines = iter(lines)
        while chunk := list(islice(lines, batch_size)):
            yield from self._translate(chunk)

    def _translate(self, lines: list[str]) -> list[str]:
        sources = {i: self._encode(line) for i, line in enumerate(lines)}
        full = [i for i, source in sources.items() if len(source) > 1]  # than </s>
        translations = [""] * len(lines)
        if full:
            batch = collate(full, *[[sources[i] for i in full]] * 2)
            for i, text in zip(full, self.module.translate(batch.source), strict=True):
                translations[i] = text
        return translations

    def _encode(self, line: str) -> Tensor:
        ids = self.data.source_dictionary.encode(self.data.tokenizer.encode(line))
        longest = self.module.config.max_positions
        if len(ids) > longest:
            raise AdminInitError(
                f"A line must have at most {longest} subwords for this model, but one has "
                f"{len(ids)}: {line[:50]!r} ... Split it into sentences."
            )
        return torch.tensor(ids)
