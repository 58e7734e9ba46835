"""Models at their initialization, and batches of the embedded corpus to measure them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from admin_init.admin_profile import AdminProfile
from admin_init.errors import require_extra
from admin_init.nn import LanguageModel, MaskedLanguageModel, Transformer, TransformerConfig
from admin_init.nn.residual import RESIDUAL_STYLES
from admin_init.profiling.profile import profile
from admin_init.rescale import apply_
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.preparation.prepare import prepare

Kind = Literal["encoder", "decoder"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Shape of the models of a study, and its data."""

    folder: str | Path
    """Folder in which the embedded corpus is prepared, as ``data-bin``."""
    dim: int = 32
    """Number of channels D."""
    ffn_dim: int = 128
    """Number of inner channels of the FFN."""
    heads: int = 4
    """Number of attention heads."""
    dropout: float = 0.1
    """Dropout probability of the embeddings and of every sub-layer's output."""
    max_tokens: int = 1024
    """Maximum number of tokens on each side of a batch."""

    def __post_init__(self) -> None:
        require_extra("lab")

    @cached_property
    def data_bin(self) -> Path:
        """The prepared corpus."""
        corpus = CorpusConfig(train=5000, valid=100, test=100).open()
        folder = Path(self.folder) / "data-bin"
        prepare(corpus, folder, vocabulary_size=_VOCABULARY)
        return folder

    def batches(self, seed: int, max_tokens: int | None = None) -> Iterator[TranslationBatch]:
        """Yield training batches in the order of a seed."""
        data = TranslationDataModule(
            self.data_bin, "en", "de", max_tokens=max_tokens or self.max_tokens, seed=seed
        )
        yield from data.train_dataloader()

    def config(self, residual: str, encoder: int, decoder: int) -> TransformerConfig:
        """Return the configuration of a model with the given numbers of layers."""
        return TransformerConfig(
            vocabulary_size=_VOCABULARY,
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            heads=self.heads,
            dropout=self.dropout,
            residual=residual,
            encoder_layers=encoder,
            decoder_layers=decoder,
        )

    def stack(self, residual: str, layers: int, seed: int, kind: Kind) -> OneStack:
        """Build an encoder-only or decoder-only model; with Admin, profile and rescale it."""
        torch.manual_seed(seed)
        tokens = next(self.batches(seed)).source
        if kind == "encoder":
            model: nn.Module = MaskedLanguageModel(self.config(residual, layers, 0))
        else:
            model = LanguageModel(self.config(residual, 0, layers))
        rule = RESIDUAL_STYLES[residual].profiled_by
        if rule is not None:
            apply_(model, profile(model, [tokens], rule=rule))
        return OneStack(model, tokens)

    def translator(self, seed: int, layers: int) -> Transformer:
        """Build an encoder-decoder model with Admin's residual connections and omega = 1."""
        torch.manual_seed(seed)
        return Transformer(self.config("admin", layers, layers))


@dataclass(frozen=True)
class OneStack:
    """A model with one stack, and a batch for it."""

    model: nn.Module
    tokens: Tensor
    """Shape (N, T)."""

    @property
    def padding(self) -> Tensor:
        """Mask of the padding tokens, shape (N, T)."""
        return self.tokens.eq(1)

    def runner(self) -> Callable[[], Tensor]:
        """Return a function that runs the stack alone on the embedded batch, (N, T, D)."""
        model: LanguageModel | MaskedLanguageModel = self.model  # type: ignore[assignment]
        with torch.no_grad():
            embedded = model.eval().embedding(self.tokens)
        padding = self.padding if self.padding.any() else None
        return lambda: model.stack(embedded, padding)


def profile_translator(model: Transformer, batches: list[TranslationBatch]) -> AdminProfile:
    """Profile an encoder-decoder model, as AdminInit does."""
    return profile(model, [(batch.source, batch.target_input) for batch in batches])


_VOCABULARY = 500
