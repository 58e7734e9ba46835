"""Configuration of a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from admin_init._utils.validation import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    at_least,
    type_problems,
)
from admin_init.errors import AdminInitError
from admin_init.nn.residual import RESIDUAL_STYLES

Sharing = Literal["all", "target", "none"]
Positions = Literal["sinusoidal", "learned"]
Initialization = Literal["xavier", "torch", "normal", "gpt2"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Configuration of a :class:`~admin_init.nn.Transformer`, or of its encoder or decoder alone.

    Raises:
        AdminInitError: Values are invalid; the message lists all of them.
    """

    vocabulary_size: Annotated[int | None, at_least(1)] = None
    """Size V of the vocabulary, joint for source and target. By default, taken from the data."""

    dim: PositiveInt = 512
    """Number of channels D of the residual stream."""

    ffn_dim: PositiveInt = 2048
    """Number of inner channels of the feed-forward sub-layers."""

    heads: PositiveInt = 8
    """Number of attention heads; must divide `dim`."""

    encoder_layers: NonNegativeInt = 6
    """Number of encoder layers; 0 in a decoder-only model."""

    decoder_layers: NonNegativeInt = 6
    """Number of decoder layers; 0 in an encoder-only model."""

    dropout: Probability = 0.1
    """Dropout probability of the embeddings and of every sub-layer's output."""

    attention_dropout: Probability = 0.0
    """Dropout probability of the attention weights."""

    activation_dropout: Probability = 0.0
    """Dropout probability of the inner channels of the feed-forward sub-layers."""

    residual: str = "post"
    """Residual style: `post`, `pre`, `admin` or another key of `admin_init.nn.RESIDUAL_STYLES`."""

    initialization: Initialization = "xavier"
    """Initialization of the sub-layers: fairseq's (`xavier`), that of `nn.Linear` (`torch`), normal
    with standard deviation 0.02 as in BERT (`normal`), or with output projections also scaled by
    1 / sqrt(number of sub-layers of the stack) as in GPT-2 (`gpt2`). Some residual styles then draw
    or scale weights anew."""

    branch_scale: PositiveFloat = 1.0
    """Factor of the output projection of every branch, after all other initialization."""

    input_scale: PositiveFloat = 1.0
    """Factor of the input of each stack, the sum of token and position embeddings. It is part of
    the forward pass, so tied embeddings do not change."""

    share_embeddings: Sharing = "all"
    """Embedding matrices that are tied: source, target and output (`all`); target and output
    (`target`); or none (`none`)."""

    positions: Positions = "sinusoidal"
    """Kind of position embeddings."""

    max_positions: PositiveInt = 1024
    """Maximum sequence length, in tokens."""

    padding_idx: int = 1
    """Token ID of padding."""

    def __post_init__(self) -> None:
        problems = type_problems(type(self), vars(self))
        if not (self.encoder_layers or self.decoder_layers):
            problems.append(
                "`encoder_layers` or `decoder_layers` must be at least 1, but both are 0."
            )
        if self.residual not in RESIDUAL_STYLES:
            known = ", ".join(sorted(RESIDUAL_STYLES))
            problems.append(f"`residual` must be one of {known}, but is {self.residual!r}.")
        if self.heads > 0 and self.dim % self.heads:
            problems.append(
                f"`dim` must be divisible by `heads` = {self.heads}, but is {self.dim}."
            )
        if self.positions == "sinusoidal" and (self.dim < 4 or self.dim % 2):
            problems.append(
                f"`dim` must be even and at least 4 for sinusoidal positions, but is {self.dim}."
            )
        if self.vocabulary_size is not None and not 0 <= self.padding_idx < self.vocabulary_size:
            problems.append(
                "`padding_idx` must be a token id, at least 0 and below `vocabulary_size` = "
                f"{self.vocabulary_size}, but is {self.padding_idx}."
            )
        if problems:
            raise AdminInitError("\n".join(problems))
