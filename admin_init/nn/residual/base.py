"""What a residual style is: how the sub-layers of a stack are connected, and started."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor, nn

SublayerKind = Literal["self_attn", "cross_attn", "ffn"]
"""Which sub-layer of a layer, in the order of execution: every layer begins with ``self_attn`` and
ends with ``ffn``; only a decoder beside an encoder has ``cross_attn``."""

State = dict[str, Tensor]
"""What the connections of a stack hand on to each other during one forward pass."""

Branch = Callable[[Tensor], Tensor]
"""A sub-layer without its residual connection, dropout included: (N, T, D) to (N, T, D)."""


StackKind = Literal["encoder", "decoder"]
"""A decoder has a causal mask, and cross-attention where there is an encoder."""


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """The stack that a style connects."""

    kind: StackKind
    """Which stack of the model it is."""

    dim: int
    """Number of channels D of the residual stream."""

    encoder_layers: int
    """Number of layers N of the encoder, 0 where the model has none."""

    decoder_layers: int
    """Number of layers M of the decoder, 0 where the model has none."""

    @property
    def layers(self) -> int:
        """Number of layers of this stack."""
        return self.encoder_layers if self.kind == "encoder" else self.decoder_layers

    @property
    def single_stack(self) -> bool:
        """Whether it is the only stack of an encoder-only or decoder-only model."""
        return not (self.encoder_layers and self.decoder_layers)

    @property
    def sublayers(self) -> int:
        """Number of residual connections: 3 a layer where it has cross-attention, else 2."""
        return (3 if self.kind == "decoder" and not self.single_stack else 2) * self.layers


class SkipConnection(nn.Module):
    """The plain sum ``x + f(x)``, a module so that both of its terms can be observed."""

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Add two tensors of shape (N, T, D)."""
        return shortcut + branch


class ResidualConnection(nn.Module, ABC):
    """One residual connection: takes the sub-layer's input to the next sub-layer's input."""

    @abstractmethod
    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """Connect ``branch`` to its input.

        Args:
            x: Input of the sub-layer, shape (N, T, D).
            branch: The sub-layer itself; to be called once.
            state: What earlier connections of the same pass left behind; may be written to.

        Returns:
            Input of the next sub-layer, shape (N, T, D).
        """


class StackEnd(nn.Module, ABC):
    """What follows the last sub-layer of a stack."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> Tensor:
        """Take the last sub-layer's output to the stack's output, both of shape (N, T, D)."""


class ResidualStyle(ABC):
    """One way to build residual connections; made once per stack, when the model is built.

    A style overrides up to four hooks; only :meth:`connection` is required. See
    :func:`register_style` for how it gets a name.

    Args:
        shape: The stack to be connected.
    """

    def __init__(self, shape: StackShape) -> None:
        self.shape = shape

    @abstractmethod
    def connection(self, layer: int, sublayer: SublayerKind) -> ResidualConnection:
        """Build the connection of one sub-layer; called in the order of execution.

        Args:
            layer: Index of the layer, from 0 at the stack's input.
            sublayer: Which sub-layer of the layer.
        """

    def inner_norm(self, layer: int, sublayer: SublayerKind, width: int) -> nn.Module | None:
        """Build the norm inside a branch, before its last projection, if the style has one.

        Args:
            layer: Index of the layer, from 0 at the stack's input.
            sublayer: Which sub-layer of the layer.
            width: Number of channels at that point: D in attention, the FFN's inner width there.
        """
        return None

    def end(self) -> StackEnd | None:
        """Build what follows the last sub-layer, if the style has something there."""
        return None

    def initialize_(  # noqa: B027, most styles have nothing to change
        self, stack: nn.Module, embedding: nn.Module | None
    ) -> None:
        """Change the model's initialization in place, and start the style's own parameters.

        Called without gradients, when all the weights of the model have been drawn.

        Args:
            stack: The encoder or decoder whose connections the style built.
            embedding: The stack's :class:`~admin_init.nn.embedding.InputEmbedding`; None where its
                token embedding is shared with a stack that has been initialized before.
        """


RESIDUAL_STYLES: dict[str, type[ResidualStyle]] = {}
"""The known styles by name."""

_StyleT = TypeVar("_StyleT", bound=ResidualStyle)


def register_style(name: str) -> Callable[[type[_StyleT]], type[_StyleT]]:
    """Register a :class:`ResidualStyle` under the name that ``TransformerConfig`` knows it by.

    Raises:
        ValueError: The name is taken.
    """

    def register(style: type[_StyleT]) -> type[_StyleT]:
        if name in RESIDUAL_STYLES:
            raise ValueError(
                f"The residual style {name!r} is registered already, by "
                f"{RESIDUAL_STYLES[name].__qualname__}. Choose another name."
            )
        RESIDUAL_STYLES[name] = style
        return style

    return register


def residual_style(name: str, shape: StackShape) -> ResidualStyle:
    """Make the style called ``name`` for one stack.

    Raises:
        ValueError: No style of this name is registered.
    """
    if name not in RESIDUAL_STYLES:
        known = ", ".join(sorted(RESIDUAL_STYLES))
        raise ValueError(f"`residual` must be one of {known}, but is {name!r}.")
    return RESIDUAL_STYLES[name](shape)
