"""The subwords of a prepared folder."""

from __future__ import annotations

import os
from functools import cached_property
from os import PathLike
from pathlib import Path

from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.subwords.tokenizer import Tokenizer, load_tokenizer


class Subwords:
    """Dictionaries and tokenizer of a prepared folder, each read when it is first needed.

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
