"""Prepared folders: their dictionaries, tokenizer and files."""

from __future__ import annotations

import os
from functools import cached_property
from os import PathLike
from pathlib import Path

from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.subwords.tokenizer import Tokenizer, load_tokenizer


class PreparedFolder:
    """Dictionaries, tokenizer and files of a prepared folder, each read on first use.

    Args:
        data: The folder with ``dict.*.txt``; or several folders joined by ``:``, of which the first
            is read.
        source_lang: Language to translate from.
        target_lang: Language to translate into.
    """

    def __init__(self, data: str | PathLike[str], source_lang: str, target_lang: str) -> None:
        one = Path(data).exists() or os.pathsep not in str(data)
        self.folders = [Path(data)] if one else [Path(name) for name in str(data).split(os.pathsep)]
        self.folder = self.folders[0]
        self.source_lang = source_lang
        self.target_lang = target_lang

    @cached_property
    def source_dictionary(self) -> Dictionary:
        """Dictionary of the source language."""
        return Dictionary.load(self.folder / f"dict.{self.source_lang}.txt")

    @cached_property
    def target_dictionary(self) -> Dictionary:
        """Dictionary of the target language."""
        return Dictionary.load(self.folder / f"dict.{self.target_lang}.txt")

    @property
    def vocabulary_size(self) -> int:
        """Size of the larger of the two dictionaries."""
        return max(len(self.source_dictionary), len(self.target_dictionary))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the prepared corpus."""
        return load_tokenizer(self.folder)

    def prefixes(self, split: str, folder: Path) -> list[Path]:
        """Return the file name prefixes of a split, one for each of its parts.

        Args:
            split: Name of the split. ``train`` may have the further parts ``train1``, ``train2``,
                ...
            folder: One of ``self.folders``.

        Returns:
            Paths without language and ending, such as ``data-bin/train.en-de``.
        """
        found = [self._prefix(folder, split)]
        while split == "train" and self._files(part := self._prefix(folder, f"train{len(found)}")):
            found.append(part)
        return found

    def _prefix(self, folder: Path, split: str) -> Path:
        """Return the prefix of a split, with the languages in the order that the files have."""
        first, second = self.source_lang, self.target_lang
        prefix, turned = (
            folder / f"{split}.{pair}" for pair in (f"{first}-{second}", f"{second}-{first}")
        )
        return turned if self._files(turned) and not self._files(prefix) else prefix

    def _files(self, prefix: Path) -> bool:
        """Return whether any file of a data-bin exists; opening it later names missing files."""
        return any(
            Path(f"{prefix}.{lang}.{kind}").exists()
            for lang in (self.source_lang, self.target_lang)
            for kind in ("idx", "bin")
        )
