"""Translation model for inference only, which does not import Lightning."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from admin_init._utils.checkpoints import has_omegas
from admin_init.admin_profile import AdminProfile
from admin_init.nn import TransformerConfig
from admin_init.rescale import install_, profiled_sites
from admin_init.translation.backend import (
    FairseqConfig,
    build_transformer,
    check_fairseq,
    search,
)
from admin_init.translation.data.prepared import PreparedFolder
from admin_init.translation.search import SearchConfig


class TranslationModel(nn.Module):
    """Translates with our own Transformer or with a fairseq Transformer.

    Args:
        transformer: Shape of the model.
        search: Settings of the beam search.
        fairseq: Let fairseq build the model and search with it.

    Each configuration may also be a dictionary of its fields, as in checkpoints.
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
        """Folder with dictionaries and tokenizer. Set it before translating."""
        self._build(as_config(TransformerConfig, transformer))

    def _build(self, config: TransformerConfig) -> None:
        self.config = config
        if self.fairseq is not None:
            check_fairseq(config)
        if config.vocabulary_size is not None:
            transformer: Any = build_transformer(config, self.fairseq)
            self.transformer: nn.Module = transformer
            self.config = transformer.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Install omegas if the checkpoint has any."""
        if has_omegas(checkpoint["state_dict"]):
            profile = AdminProfile.from_checkpoint(checkpoint)
            # The layers do not show where the input of a Pre-LN stream is scaled.
            install_(self, sites=None if profile is None else profiled_sites(self, profile))

    @override
    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Compute logits (N, T, V), see :meth:`admin_init.nn.Transformer.forward`."""
        logits: Tensor = self.transformer(source, target_input)
        return logits

    def translate(self, source: Tensor) -> list[str]:
        """Translate a batch into detokenized text.

        Args:
            source: Source sentences, padded with ``padding_idx``, int64. *Shape:* (N, S).

        Returns:
            One string per sentence.
        """
        return [self._data.tokenizer.decode(pieces) for pieces in self.subwords(source)]

    def subwords(self, source: Tensor) -> list[list[str]]:
        """Translate a batch into subwords, one list per sentence; see :meth:`translate`.

        The translation of a sentence without subwords is empty.
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
        """The prepared folder."""
        if self.data is None:
            raise TypeError("A translation model takes its subwords from `data`, which is not set.")
        return self.data


def as_config(cls: type[Any], value: Any) -> Any:
    """Build a configuration from a dictionary of its fields; return any other value unchanged."""
    return cls(**value) if isinstance(value, dict) else value
