"""Decoder-only and encoder-only language models.

Shapes: N sequences, T tokens, D channels, V token ids.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from admin_init.nn.attention import any_padding, padding_before_tokens
from admin_init.nn.config import TransformerConfig
from admin_init.nn.embedding import input_embedding, token_embedding
from admin_init.nn.initialization import initialize_, scale_branches_
from admin_init.nn.residual import StackKind
from admin_init.nn.stacks import CausalDecoder, TransformerEncoder


class _OneStack(nn.Module):
    """Embedding, one stack and an output projection, whose weight the embedding may share."""

    def __init__(self, config: TransformerConfig, kind: StackKind, stack: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.kind = kind
        self.embedding = input_embedding(config, token_embedding(config))
        self.add_module(kind, stack)
        self.output_proj = nn.Linear(config.dim, self.embedding.tokens.num_embeddings, bias=False)
        self.reset_parameters()

    @property
    def stack(self) -> CausalDecoder | TransformerEncoder:
        """The encoder or decoder."""
        stack: CausalDecoder | TransformerEncoder = getattr(self, self.kind)
        return stack

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize all weights; also needed after building the model on the meta device."""
        initialize_(self, self.config.initialization)
        if self.config.share_embeddings == "none":
            nn.init.normal_(self.output_proj.weight, std=self.config.dim**-0.5)
        else:
            self.output_proj.weight = self.embedding.tokens.weight
        self.stack.style.initialize_(self.stack, self.embedding)
        scale_branches_(self, self.config.branch_scale)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Compute the hidden states before the output projection.

        Args:
            tokens: Shape (N, T), int64, padded with ``padding_idx`` on either side.

        Returns:
            Shape (N, T, D).
        """
        padding = self._hidden_from_attention(tokens.eq(self.config.padding_idx))
        states: Tensor = self.stack(self.embedding(tokens), padding)
        return states

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict a token at each position.

        Args:
            tokens: Shape (N, T), int64, padded with ``padding_idx`` on either side.

        Returns:
            Logits, shape (N, T, V).
        """
        logits: Tensor = self.output_proj(self.hidden(tokens))
        return logits

    def _hidden_from_attention(self, padding: Tensor) -> Tensor | None:
        raise NotImplementedError


class LanguageModel(_OneStack):
    """Decoder-only Transformer, which predicts the next token from the previous ones.

    Args:
        config: Shape of the model, with ``encoder_layers=0``.

    Raises:
        ValueError: The configuration has an encoder, or ``vocabulary_size`` is None.

    Examples:
        >>> config = TransformerConfig(vocabulary_size=100, encoder_layers=0, decoder_layers=2)
        >>> LanguageModel(config)(torch.randint(4, 100, (2, 8))).shape
        torch.Size([2, 8, 100])
    """

    def __init__(self, config: TransformerConfig) -> None:
        if config.encoder_layers:
            raise ValueError(
                "`encoder_layers` must be 0 in a decoder-only model, but is "
                f"{config.encoder_layers}. `Transformer` is the model with both stacks."
            )
        super().__init__(config, "decoder", CausalDecoder(config))

    def _hidden_from_attention(self, padding: Tensor) -> Tensor | None:
        return padding_before_tokens(padding)


class MaskedLanguageModel(_OneStack):
    """Encoder-only Transformer, which predicts every token from all tokens, like BERT.

    Args:
        config: Shape of the model, with ``decoder_layers=0``.

    Raises:
        ValueError: The configuration has a decoder, or ``vocabulary_size`` is None.
    """

    def __init__(self, config: TransformerConfig) -> None:
        if config.decoder_layers:
            raise ValueError(
                "`decoder_layers` must be 0 in an encoder-only model, but is "
                f"{config.decoder_layers}. `Transformer` is the model with both stacks."
            )
        super().__init__(config, "encoder", TransformerEncoder(config))

    def _hidden_from_attention(self, padding: Tensor) -> Tensor | None:
        return padding if any_padding(padding) else None
