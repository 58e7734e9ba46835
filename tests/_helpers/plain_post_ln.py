"""Post-LN sub-layers in plain torch, as people write them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D = 16


class SubLayer(nn.Module):
    """``norm(x + f(x))``; subclasses write f, the sum or the norm in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.norm: nn.Module = nn.LayerNorm(D)

    def branch(self, x: Tensor) -> Any:
        return self.outer(self.inner(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x + self.branch(x))
        return y


class InPlace(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        branch = self.branch(x)
        x += branch
        y: Tensor = self.norm(x)
        return y


class BranchInPlace(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.branch(x).add_(x))
        return y


class FunctionalDropout(SubLayer):
    def branch(self, x: Tensor) -> Tensor:
        return F.dropout(super().branch(x), 0.3, self.training)


class FunctionalNorm(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()
        self.gain = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x + self.branch(x), (D,), self.gain)


class FunctionalRootMeanSquare(FunctionalNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x + self.branch(x), (D,), self.gain)


class Formula(FunctionalNorm):
    """A norm written out in the forward of the sub-layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(x)
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.gain * ((x - mean) / torch.sqrt(var + 1e-5))


class RootMeanSquare(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(D)


class OwnNorm(nn.Module):
    """The norm of the annotated Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return self.a_2 * centered / (x.std(-1, keepdim=True) + 1e-6) + self.b_2


class AnnotatedTransformer(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = OwnNorm()


class ChannelsFirst(SubLayer):
    """A convolution along the tokens, whose channels are on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(D, D, 3, padding=1)

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return y


class Dictionary(SubLayer):
    """Returns its branch inside another module's dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = Mixer()

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.mixer(x)["states"][0]
        return y


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D, D) / D**0.5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"mean": x.mean(), "states": (x @ self.weight, x.detach())}


class Einsum(SubLayer):
    """As in XLNet, one dropout runs twice, and a parameter ends the branch in an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D, 2, D // 2) / D**0.5)
        self.dropout = nn.Dropout(0.1)

    def branch(self, x: Tensor) -> Tensor:
        heads = self.dropout(x.unflatten(-1, (2, D // 2)).softmax(1))
        y: Tensor = self.dropout(torch.einsum("btnd,hnd->bth", heads, self.weight))
        return y


class Scaled(SubLayer):
    """A shortcut with a constant factor, and a branch with a gain for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((D,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(1.5 * x + self.gain * self.branch(x))
        return y


class Averaged(SubLayer):
    """A factor, as in ConvS2S, and dropout between the sum and the norm."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x + self.branch(x)) * 0.5**0.5
        y: Tensor = self.norm(F.dropout(total, 0.1, self.training))
        return y


class Alpha(SubLayer):
    """A branch with a factor that is an argument of the sum."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(torch.add(x, self.branch(x), alpha=0.5))
        return y


class Multiplied(Scaled):
    """A branch that the operation of the sum multiplies by a gain for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(torch.addcmul(1.5 * x, self.branch(x), self.gain))
        return y


class Flattened(SubLayer):
    """Joins the batch and the tokens for the branch, as OPT does."""

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = super().branch(x.reshape(-1, D)).view(x.shape)
        return y


class TwoLinears(SubLayer):
    """A branch that is itself a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = Sum()

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.sum(x)
        return y


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(D, D), nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(x.tanh())
        return y


SUB_LAYERS: dict[Callable[[], SubLayer], str] = {
    SubLayer: "outer",
    InPlace: "outer",
    BranchInPlace: "outer",
    FunctionalDropout: "outer",
    FunctionalNorm: "outer",
    FunctionalRootMeanSquare: "outer",
    Formula: "outer",
    RootMeanSquare: "outer",
    AnnotatedTransformer: "outer",
    ChannelsFirst: "convolution",
    Dictionary: "mixer",
    Einsum: "dropout",
    Scaled: "outer",
    Averaged: "outer",
    Alpha: "outer",
    Multiplied: "outer",
    Flattened: "outer",
    TwoLinears: "sum",
}
"""Each class with the module at which its branch ends."""


class Stack(nn.Module):
    """Sub-layers of one class, one after the other."""

    def __init__(self, kind: Callable[[], nn.Module] = SubLayer, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(kind() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
