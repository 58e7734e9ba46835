"""Norms and branches of random modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D = 8


class CenteredNorm(nn.Module):
    """The norm of the annotated Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + 1e-6) + self.b_2


class RootNorm(nn.Module):
    """The norm of Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


NORMS: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": lambda: nn.LayerNorm(D),
    "RMSNorm": lambda: nn.RMSNorm(D),
    "centered": CenteredNorm,
    "root": RootNorm,
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"layer_norm": F.layer_norm, "rms_norm": F.rms_norm}
"""Norms that are no module."""


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class TorchAttention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(D, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x, x, x, need_weights=False)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(D, D, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return y


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, D // 2, D) / D**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bthd,hde->bte", x.unflatten(-1, (2, D // 2)), self.weight)


class GatedLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.out = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.silu(self.gate(x)) * self.up(x))
        return y


class Gated(nn.Module):
    """Ends in a product of two functions of x."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(x) * self.gate(x).sigmoid()
        return y


class Squash(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((D,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * x)


class Both(nn.Module):
    """A sum of two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(D, D), nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(x.tanh())
        return y


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"mean": x.mean(), "states": self.linear(x)}


@dataclass
class Returned:
    states: Tensor


class InDataclass(nn.Module):
    """Returns, in a dataclass of its own, what no module inside it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D, D) / D**0.5)

    def forward(self, x: Tensor) -> Returned:
        return Returned(x.relu() @ self.weight)


@dataclass(frozen=True)
class BranchKind:
    build: Callable[[], nn.Module]
    end: str | None
    """The module inside at which it ends, "" for itself; None if no module returns it."""
    folds: bool
    inline: bool = False
    """Whether the sub-layer itself computes it, from the weights of the module."""


BRANCHES = {
    "linear": BranchKind(lambda: nn.Linear(D, D), "", True),
    "MLP": BranchKind(
        lambda: nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D)), "2", True
    ),
    "attention": BranchKind(Attention, "out", True),
    "torch's attention": BranchKind(TorchAttention, "", True),
    "convolution": BranchKind(Convolution, "conv", True),
    "einsum": BranchKind(Einsum, "", True),
    "inline einsum": BranchKind(Einsum, None, True, inline=True),
    "gated linear": BranchKind(GatedLinear, "out", True),
    "gated": BranchKind(Gated, "", False),
    "inline gated": BranchKind(Gated, None, False, inline=True),
    "elementwise": BranchKind(Squash, "", False),
    "inline elementwise": BranchKind(Squash, None, False, inline=True),
    "two linears": BranchKind(Both, "", True),
    "inline two linears": BranchKind(Both, None, True, inline=True),
    "dictionary": BranchKind(Dictionary, "linear", True),
    "dataclass": BranchKind(InDataclass, None, True),
}


def states(output: Any) -> Tensor:
    """Return the tensor that a branch returns, in whatever it returns it."""
    if isinstance(output, Returned):
        return output.states
    if isinstance(output, dict):
        output = output["states"]
    y: Tensor = output[0] if isinstance(output, tuple) else output
    return y
