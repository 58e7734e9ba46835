"""Translation with a decoder alone, which reads source and target as one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from admin_init.errors import AdminInitError
from admin_init.nn import LanguageModel, TransformerConfig


class PrefixLanguageModel(nn.Module):
    """A decoder-only model behind the interface of :class:`admin_init.nn.Transformer`.

    Its sequence is the source, then the target, under one causal mask; only the target is
    predicted.

    Args:
        config: Shape of the decoder; has no encoder layers.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder_only = LanguageModel(config)

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Predict every next target token from the source and the target tokens before it.

        Args:
            source: Shape (N, S), int64, padded with ``padding_idx`` on either side.
            target_input: The target, shifted right, shape (N, T), int64.

        Returns:
            Logits, shape (N, T, V).
        """
        model = self.decoder_only
        hidden = model.hidden(torch.cat([source, target_input], dim=1))
        logits: Tensor = model.output_proj(hidden[:, source.shape[1] :])
        return logits

    def beam_search(self, source: Tensor, **options: Any) -> Any:
        """Refuse: a decoder-only model is here to be measured, not to translate.

        Raises:
            AdminInitError: Always.
        """
        raise AdminInitError(
            "There is no search for a decoder-only model (`encoder_layers` = 0); its validation "
            "NLL and source gain are measured. Give it an encoder to translate."
        )
