"""Models of one stack: decoder-only and encoder-only language models.

Shapes: N sequences, T tokens, D channels, V token ids.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from admin_init.nn.attention import any_padding, padding_before_tokens
from admin_init.nn.config import TransformerConfig
from admin_init.nn.embedding import input_embedding, token_embedding
from admin_init.nn.initialization import initialize_
from admin_init.nn.residual import StackKind
from admin_init.nn.stacks import CausalDecoder, TransformerEncoder


class _OneStack(nn.Module):
    """Embedding, stack and output projection, which is the embedding's unless nothing is shared."""

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
        """Draw all the weights anew; a model that was built on the meta device calls for it."""
        initialize_(self)
        if self.config.share_embeddings == "none":
            nn.init.normal_(self.output_proj.weight, std=self.config.dim**-0.5)
        else:
            self.output_proj.weight = self.embedding.tokens.weight
        self.stack.style.initialize_(self.stack, self.embedding)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Run all but the output projection.

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
    """Decoder-only Transformer: predicts the next token from those before it.

    Args:
        config: Its shape, with ``encoder_layers=0``.

    Raises:
        ValueError: The configuration has an encoder, or no vocabulary yet.

    Example::

        config = TransformerConfig(vocabulary_size=10_000, encoder_layers=0, decoder_layers=32)
        logits = LanguageModel(config)(tokens)
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
    """Encoder-only Transformer: predicts every token from all of them, as BERT does.

    Args:
        config: Its shape, with ``decoder_layers=0``.

    Raises:
        ValueError: The configuration has a decoder, or no vocabulary yet.
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
