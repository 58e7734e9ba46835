"""Prepared folders: their dictionaries, tokenizer and files."""

from __future__ import annotations

import os
from functools import cached_property
from os import PathLike
from pathlib import Path

from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.subwords.tokenizer import Tokenizer, load_tokenizer


class PreparedFolder:
    """Dictionaries, tokenizer and files of a prepared folder, each read when it is first needed.

    Args:
        data: The folder with ``dict.*.txt``, or several joined by ``:``, of which the first counts.
        source_lang: The language translated from.
        target_lang: The language translated into.
    """

    def __init__(self, data: str | PathLike[str], source_lang: str, target_lang: str) -> None:
        one = Path(data).exists() or os.pathsep not in str(data)
        self.folders = [Path(data)] if one else [Path(name) for name in str(data).split(os.pathsep)]
        self.folder = self.folders[0]
        self.source_lang = source_lang
        self.target_lang = target_lang

    @cached_property
    def source_dictionary(self) -> Dictionary:
        """The tokens of the source language."""
        return Dictionary.load(self.folder / f"dict.{self.source_lang}.txt")

    @cached_property
    def target_dictionary(self) -> Dictionary:
        """The tokens of the target language."""
        return Dictionary.load(self.folder / f"dict.{self.target_lang}.txt")

    @property
    def vocabulary_size(self) -> int:
        """Number of ids that a model needs for both languages."""
        return max(len(self.source_dictionary), len(self.target_dictionary))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The subwords that the corpus was prepared with."""
        return load_tokenizer(self.folder)

    def prefixes(self, split: str, folder: Path) -> list[Path]:
        """Return how the names of the files of a split begin, of each of its parts in turn.

        Args:
            split: Its name. ``train`` goes on in ``train1``, ``train2``, ... where there are such.
            folder: One of ``self.folders``.
        """
        found = [self._prefix(folder, split)]
        while split == "train" and self._files(part := self._prefix(folder, f"train{len(found)}")):
            found.append(part)
        return found

    def _prefix(self, folder: Path, split: str) -> Path:
        """Return how the names of a split begin: ``train.en-de``, or ``train.de-en`` if there."""
        first, second = self.source_lang, self.target_lang
        prefix, turned = (
            folder / f"{split}.{pair}" for pair in (f"{first}-{second}", f"{second}-{first}")
        )
        return turned if self._files(turned) and not self._files(prefix) else prefix

    def _files(self, prefix: Path) -> bool:
        """Return whether there is any file of a data-bin; opening it names one that is missing."""
        return any(
            Path(f"{prefix}.{lang}.{kind}").exists()
            for lang in (self.source_lang, self.target_lang)
            for kind in ("idx", "bin")
        )
