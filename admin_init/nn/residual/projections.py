"""Weight matrices of a stack, for styles that initialize them differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from admin_init.nn.attention import Attention, CrossAttention
from admin_init.nn.feed_forward import FeedForward


class Projection(NamedTuple):
    """A weight matrix of a sub-layer."""

    name: str
    """``query``, ``key``, ``value`` and ``output`` in attention, ``fc1`` and ``fc2`` in an FFN."""
    weight: Tensor
    """A view of the parameter, shape (out, in)."""
    cross_attention: bool
    """Whether the matrix belongs to a cross-attention."""

    @property
    def scales_branch(self) -> bool:
        """Whether the branch's output is proportional to the matrix; False for query and key."""
        return self.name not in ("query", "key")


def projections(stack: nn.Module) -> Iterator[Projection]:
    """Yield the matrices of all sub-layers of ``stack``, in the order of execution."""
    for module in stack.modules():
        match module:
            case Attention():
                cross = isinstance(module, CrossAttention)
                for name, weight in module.projections().items():
                    yield Projection(name, weight, cross)
            case FeedForward():
                yield Projection("fc1", module.fc1.weight, False)
                yield Projection("fc2", module.fc2.weight, False)
