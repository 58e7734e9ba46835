"""A translation model, without what trains it: translating alone imports no Lightning."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from admin_init._utils.checkpoints import has_omegas
from admin_init.nn import TransformerConfig
from admin_init.rescale import install_
from admin_init.translation.backend import FairseqConfig, build_transformer, search
from admin_init.translation.data.prepared import PreparedFolder
from admin_init.translation.search import SearchConfig


class TranslationModel(nn.Module):
    """Translates with a Transformer, our own or one of fairseq's.

    Args:
        transformer: Shape of the model.
        search: How translations are searched for.
        fairseq: Let fairseq build the model, and search with it.

    The configurations may also be dictionaries of their fields, which is how checkpoints hold them.
    """

    def __init__(
        self,
        transformer: TransformerConfig | dict[str, Any],
        search: SearchConfig | dict[str, Any],
        *,
        fairseq: FairseqConfig | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.search: SearchConfig = as_config(SearchConfig, search)
        self.fairseq: FairseqConfig | None = as_config(FairseqConfig, fairseq)
        self.data: PreparedFolder | None = None
        """Source of the subwords."""
        self._build(as_config(TransformerConfig, transformer))

    def _build(self, config: TransformerConfig) -> None:
        self.config = config
        if config.vocabulary_size is not None:
            transformer: Any = build_transformer(config, self.fairseq)
            self.transformer: nn.Module = transformer
            self.config = transformer.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the omegas of a checkpoint, where AdminInit has added them to the model."""
        if has_omegas(checkpoint["state_dict"]):
            install_(self)

    @override
    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Return logits (N, T, V), see :meth:`admin_init.nn.Transformer.forward`."""
        logits: Tensor = self.transformer(source, target_input)
        return logits

    def translate(self, source: Tensor) -> list[str]:
        """Translate a batch into detokenised text, one string a sentence.

        Args:
            source: Shape (N, S), int64, padded with ``padding_idx``.
        """
        return [self._data.tokenizer.decode(pieces) for pieces in self.subwords(source)]

    def subwords(self, source: Tensor) -> list[list[str]]:
        """Translate a batch, see :meth:`translate`, into the subwords of each sentence.

        A sentence without subwords is not searched for: its translation has none either.
        """
        dictionary = self._data.target_dictionary
        full = source.ne(self.config.padding_idx).sum(dim=1) > 1  # than </s>
        found = iter(search(self.transformer, source[full], self.search) if full.any() else ())
        return [
            dictionary.decode(next(found)[0].tokens.tolist()) if row else []
            for row in full.tolist()
        ]

    @property
    def _data(self) -> PreparedFolder:
        """The given `data`."""
        if self.data is None:
            raise TypeError("A translation model takes its subwords from `data`, which is not set.")
        return self.data


def as_config(cls: type[Any], value: Any) -> Any:
    """Build a configuration of the dictionary of its fields; return anything else as it is."""
    return cls(**value) if isinstance(value, dict) else value
