"""Conversion between plain text and the subwords of a prepared corpus."""

from os import PathLike
from pathlib import Path
from typing import Protocol

from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import NAME, Manifest
from admin_init.translation.preparation.preprocessing import Preprocessor
from admin_init.translation.subwords.sentencepiece import SentencePiece
from admin_init.translation.subwords.subword_nmt import BytePairs

SUBWORD_MODELS = {"sentencepiece": "sentencepiece.bpe.model", "subword-nmt": "bpecodes"}
"""File name of the subword model in a prepared folder, as fairseq's hub expects it."""


class Subwords(Protocol):
    """A subword model that was learned from a corpus."""

    model: bytes
    """The serialized model, which is the content of its file."""

    def split(self, text: str) -> list[str]:
        """Split a preprocessed sentence into subwords."""

    def join(self, pieces: list[str]) -> str:
        """Join subwords into a preprocessed sentence."""


class Tokenizer:
    """Turns plain source text into subwords, and the subwords of a translation into plain text.

    Args:
        source: Preprocessing of source sentences.
        target: Preprocessing of target sentences, which decoding undoes.
        subwords: Subword model of both languages.
    """

    def __init__(self, source: Preprocessor, target: Preprocessor, subwords: Subwords) -> None:
        self._source = source
        self._target = target
        self._subwords = subwords

    def encode(self, text: str) -> list[str]:
        """Split a source sentence into subwords, preprocessed like the training data."""
        return self._subwords.split(self._source(text))

    def decode(self, pieces: list[str]) -> str:
        """Join the subwords of a translation into plain, detokenized text."""
        return self._target.restore(self._subwords.join(pieces))


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """Load the tokenizer of a prepared folder.

    Args:
        folder: The prepared folder. A folder without a manifest, as from fairseq-preprocess, needs
            the SentencePiece model ``sentencepiece.bpe.model``.

    Returns:
        The tokenizer.

    Raises:
        CorpusError: The subword model is missing or damaged.
        MissingExtraError: The package of the subword model is not installed.
    """
    folder = Path(folder)
    settings = Manifest.load(folder).settings if (folder / NAME).exists() else {}
    config = PrepareConfig.from_settings(settings)
    source, target = (
        Preprocessor(settings.get(side, ""), config) for side in ("source_lang", "target_lang")
    )
    return Tokenizer(source, target, load_subwords(folder, config))


def load_subwords(folder: str | PathLike[str], config: PrepareConfig) -> Subwords:
    """Load the subword model of a prepared folder.

    Raises:
        CorpusError: The file is missing or damaged.
        MissingExtraError: The package of the subword model is not installed.
    """
    path = Path(folder) / SUBWORD_MODELS[config.subwords]
    if config.subwords == "sentencepiece":
        return SentencePiece.load(path)
    return BytePairs.load(path)
