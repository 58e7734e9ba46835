"""Translation of plain text with a trained checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch

from admin_init._utils.checkpoints import read_checkpoint
from admin_init._utils.validation import PositiveInt, check
from admin_init.errors import AdminInitError, require_extra
from admin_init.nn import Transformer, prepare_for_inference_
from admin_init.translation.checkpoint import load_model
from admin_init.translation.data.batching import collate
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.data.prepared import PreparedFolder

TooLong = Literal["skip", "cut"]


class Translator:
    """Translates lines of text.

    The model is prepared for inference once, see :func:`~admin_init.nn.prepare_for_inference_`, and
    can no longer be trained.

    Args:
        checkpoint: Path of a checkpoint of :class:`TranslationModule`.
        data: The prepared folder of the training data; by default the one named in the checkpoint.
        beam_size: Number of hypotheses; by default that of the checkpoint.
        length_penalty: Length penalty; by default that of the checkpoint.
        too_long: What to do with a line that is too long for the model's positions: ``skip`` gives
            an empty translation, ``cut`` translates the beginning, None raises an error.
        report: Called with a message for every line that was skipped or cut.

    Raises:
        AdminInitError: The checkpoint or the folder cannot be used.
        MissingExtraError: The extra ``translation`` is not installed.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        data: str | os.PathLike[str] | None = None,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        too_long: TooLong | None = None,
        report: Callable[[str], object] = warnings.warn,
    ) -> None:
        require_extra("translation")
        saved = read_checkpoint(checkpoint)
        self.module = load_model(saved)
        if isinstance(self.module.transformer, Transformer):
            prepare_for_inference_(self.module.transformer)
        settings = dict(saved.get("datamodule_hyper_parameters", {}))
        if data is not None:
            settings["data"] = data
        if not {"data", "source_lang", "target_lang"} <= settings.keys():
            raise AdminInitError(
                f"{checkpoint} does not name the data it was trained on. Give the prepared folder "
                "as `data`."
            )
        self.data = PreparedFolder(
            settings["data"], settings["source_lang"], settings["target_lang"]
        )
        self.module.data = self.data
        known, ids = self.module.config.vocabulary_size, self.data.vocabulary_size
        if known != ids:
            raise AdminInitError(
                f"{checkpoint} was trained with {known} subwords, but {settings['data']} has "
                f"{ids}. Give the prepared folder of its training data as `data`."
            )
        overrides: dict[str, Any] = {"beam_size": beam_size, "length_penalty": length_penalty}
        self.module.search = replace(
            self.module.search, **{k: v for k, v in overrides.items() if v is not None}
        )

        self._too_long = too_long
        self._report = report

    def __call__(self, lines: Iterable[str], batch_size: PositiveInt = 64) -> Iterator[str]:
        """Translate lines in order; an empty line stays empty.

        Args:
            lines: The lines.
            batch_size: Number of lines to translate at once.

        Raises:
            AdminInitError: ``batch_size`` is not positive, or a line is too long for the model.
                The lines before it have been translated then.
        """
        check(Translator.__call__, locals())
        lines = iter(lines)
        return self.translate_batches(iter(lambda: list(islice(lines, batch_size)), []))

    def translate_batches(self, batches: Iterable[list[str]]) -> Iterator[str]:
        """Translate the lines of given batches; see :meth:`__call__`."""
        done = 0
        for batch in batches:
            sources, refusal = [], None
            for number, line in enumerate(batch, start=done + 1):
                try:
                    sources.append(torch.tensor(self._encode(line, number)))
                except AdminInitError as error:
                    refusal = error
                    break
            if sources:
                padded = collate(range(len(sources)), sources, sources)
                yield from self.module.translate(padded.source)
            if refusal is not None:
                raise refusal
            done += len(batch)

    def _encode(self, line: str, number: int) -> list[int]:
        ids = self.data.source_dictionary.encode(self.data.tokenizer.encode(line))
        longest = self.module.config.max_positions
        if len(ids) <= longest:
            return ids
        problem = (
            f"line {number} of the input has {len(ids)} subwords, but the model takes at most "
            f"{longest}: {line[:50]!r} ..."
        )
        if self._too_long == "skip":
            self._report(f"{problem} Its translation is empty.")
            return [Dictionary.eos]
        if self._too_long == "cut":
            self._report(f"{problem} The rest is not translated.")
            return [*ids[: longest - 1], Dictionary.eos]
        raise AdminInitError(
            f"{problem} Split it into sentences, or choose what to do with such lines: "
            "`--too-long skip` or `--too-long cut`."
        )
