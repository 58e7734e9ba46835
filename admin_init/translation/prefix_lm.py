"""Decoder-only translation model, which reads source and target as one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from admin_init.errors import AdminInitError
from admin_init.nn import LanguageModel, TransformerConfig


class PrefixLanguageModel(nn.Module):
    """Decoder-only model with the interface of :class:`admin_init.nn.Transformer`.

    The model reads the source followed by the target, under one causal mask, and predicts only the
    target.

    Args:
        config: Shape of the decoder. It must have no encoder layers.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder_only = LanguageModel(config)

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Predict every next target token from the source and the target tokens before it.

        Args:
            source: Source sentences, padded with ``padding_idx`` on either side, int64.
                *Shape:* (N, S).
            target_input: Targets, shifted right, int64. *Shape:* (N, T).

        Returns:
            Logits. *Shape:* (N, T, V).
        """
        model = self.decoder_only
        hidden = model.hidden(torch.cat([source, target_input], dim=1))
        logits: Tensor = model.output_proj(hidden[:, source.shape[1] :])
        return logits

    def beam_search(self, source: Tensor, **options: Any) -> Any:
        """Raise an error: beam search with a decoder-only model is not implemented.

        Raises:
            AdminInitError: Always.
        """
        raise AdminInitError(
            "There is no search for a decoder-only model (`encoder_layers` = 0), so it can be "
            "trained and validated, but not translate. To translate, give it an encoder."
        )
