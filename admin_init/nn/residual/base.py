"""Base classes of residual styles, which connect and initialize the sub-layers of a stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from torch import Tensor, nn

from admin_init.omega import Rule

SublayerKind = Literal["self_attn", "cross_attn", "ffn"]
"""Kind of a sub-layer, in the order of execution. Every layer starts with ``self_attn`` and ends
with ``ffn``; only the decoder of an encoder-decoder model has ``cross_attn``."""

State = dict[str, Tensor]
"""Tensors that the connections of a stack pass on to later ones in one forward pass."""

Branch = Callable[[Tensor], Tensor]
"""A sub-layer with dropout but without its residual connection: (N, T, D) to (N, T, D)."""


StackKind = Literal["encoder", "decoder"]
"""Kind of a stack. A decoder has a causal mask, and cross-attention if there is an encoder."""


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """Shape of a stack and of its model."""

    kind: StackKind
    """Whether the stack is the encoder or the decoder."""

    dim: int
    """Number of channels D of the residual stream."""

    encoder_layers: int
    """Number of layers N of the encoder; 0 without encoder."""

    decoder_layers: int
    """Number of layers M of the decoder; 0 without decoder."""

    @property
    def layers(self) -> int:
        """Number of layers of this stack."""
        return self.encoder_layers if self.kind == "encoder" else self.decoder_layers

    @property
    def single_stack(self) -> bool:
        """Whether the model is encoder-only or decoder-only."""
        return not (self.encoder_layers and self.decoder_layers)

    @property
    def sublayers(self) -> int:
        """Number of residual connections: 3 per layer with cross-attention, else 2."""
        return (3 if self.kind == "decoder" and not self.single_stack else 2) * self.layers


class SkipConnection(nn.Module):
    """The plain sum ``x + f(x)``, a module so that hooks can observe both terms."""

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Add two tensors of shape (N, T, D)."""
        return shortcut + branch


class ResidualConnection(nn.Module, ABC):
    """One residual connection: maps the input of a sub-layer to the input of the next one."""

    @abstractmethod
    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        """Connect ``branch`` to its input.

        Args:
            x: Input of the sub-layer, shape (N, T, D).
            branch: The sub-layer; must be called exactly once.
            state: Tensors from earlier connections of this forward pass; may be changed.

        Returns:
            Input of the next sub-layer, shape (N, T, D).
        """


class StackEnd(nn.Module, ABC):
    """Module after the last sub-layer of a stack."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> Tensor:
        """Map the last sub-layer's output to the stack's output, both of shape (N, T, D)."""


class ResidualStyle(ABC):
    """Base class of residual styles; the model creates one instance per stack.

    A style overrides up to four methods; only :meth:`connection` is required.
    :func:`register_style` gives it a name.

    Args:
        shape: Shape of the stack.
    """

    profiled_by: ClassVar[Rule | None] = None
    """The rule by which a profile completes the initialization, if one does."""

    def __init__(self, shape: StackShape) -> None:
        self.shape = shape

    @abstractmethod
    def connection(self, layer: int, sublayer: SublayerKind) -> ResidualConnection:
        """Build the connection of one sub-layer; called in the order of execution.

        Args:
            layer: Index of the layer, from 0 at the stack's input.
            sublayer: Kind of the sub-layer.
        """

    def inner_norm(self, layer: int, sublayer: SublayerKind, width: int) -> nn.Module | None:
        """Build the norm inside a branch, before its last projection, if the style has one.

        Args:
            layer: Index of the layer, from 0 at the stack's input.
            sublayer: Kind of the sub-layer.
            width: Number of channels at that point: D in attention, the inner width in an FFN.
        """
        return None

    def end(self) -> StackEnd | None:
        """Build the module after the last sub-layer, if the style has one."""
        return None

    def initialize_(  # noqa: B027, most styles have nothing to change
        self, stack: nn.Module, embedding: nn.Module | None
    ) -> None:
        """Change the default initialization in place, and initialize the style's own parameters.

        Called without gradients, after the default initialization of the whole model.

        Args:
            stack: The encoder or decoder.
            embedding: The stack's :class:`~admin_init.nn.embedding.InputEmbedding`, or None if its
                token embedding is shared with a stack that is already initialized.
        """


RESIDUAL_STYLES: dict[str, type[ResidualStyle]] = {}
"""All registered styles by name."""

_StyleT = TypeVar("_StyleT", bound=ResidualStyle)


def register_style(name: str) -> Callable[[type[_StyleT]], type[_StyleT]]:
    """Register a :class:`ResidualStyle` for ``TransformerConfig(residual=name)``.

    Returns:
        A class decorator.

    Raises:
        ValueError: The name is already registered.
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
    """Create the style ``name`` for one stack.

    Raises:
        ValueError: No style of this name is registered.
    """
    if name not in RESIDUAL_STYLES:
        known = ", ".join(sorted(RESIDUAL_STYLES))
        raise ValueError(f"`residual` must be one of {known}, but is {name!r}.")
    return RESIDUAL_STYLES[name](shape)
