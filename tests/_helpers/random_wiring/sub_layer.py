"""Sub-layers of random modules, and the computation of their omegas by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _helpers.random_wiring.parts import BRANCHES, FUNCTIONS, NORMS, D, states

SUMS = {
    "x + f": (1.0, 1.0),
    "f + x": (1.0, 1.0),
    "x += f": (1.0, 1.0),
    "f += x": (1.0, 1.0),
    "x - f": (1.0, -1.0),
    "0.5 * (x + f)": (1.0, 1.0),
    "1.5 * x + 0.5 * f": (1.5, 0.5),
    "add(x, f, alpha=0.5)": (1.0, 0.5),
    "add(f, x, alpha=0.5)": (0.5, 1.0),
    "addcmul(x, gain, f)": (1.0, 1.0),
    "x + f + p": (1.0, 1.0),
    "x + (f + p)": (1.0, 1.0),
}
"""Ways to write the sum, with the factors of x and f."""


@dataclass(frozen=True)
class SubLayer:
    """How a sub-layer is written."""

    branch: str = "linear"
    dropout: str = "none"
    sum: str = "x + f"
    norm: str = "LayerNorm"
    before: bool = False
    """Whether the branch begins with a norm."""
    inside: bool = False
    """Whether the branch ends with a norm."""
    after: bool = True
    """Whether a norm follows the sum."""
    tapped: bool = False
    """Whether something else reads the branch, too."""
    gain: bool = False
    """Whether a parameter scales each channel of the branch."""
    branch_of: int | None = None
    """The sub-layer whose branch it shares."""


class ByHand:
    """The recursion for omega, on variances of x and f as the sub-layers report them."""

    def __init__(self, previous: Mapping[str, str | None]) -> None:
        self.previous = previous
        """The connections to rescale, each with the one before."""
        self.omegas: dict[str, float] = {}
        self.variances: dict[str, tuple[float, float]] = {}
        self._next: dict[str, float] = {}
        self._runs: Counter[str] = Counter()

    def again(self) -> None:
        self._runs.clear()

    def run(self, path: str) -> str:
        self._runs[path] += 1
        return f"{path}#{self._runs[path]}"

    def divided(self, key: str, f: Tensor) -> Tensor:
        if key not in self.previous:
            return f
        before = self.previous[key]
        if key not in self.omegas:
            self.omegas[key] = 1.0 if before is None else self._next[before]
        return f / self.omegas[key]

    def record(self, key: str, x: Tensor, f: Tensor) -> None:
        if key in self.previous and key not in self.variances:
            var_x, var_f = (t.var(correction=0).item() for t in (x, f))
            self.variances[key] = var_x, var_f
            self._next[key] = math.sqrt(self.omegas[key] ** 2 * var_x + var_f)


class Sub(nn.Module):
    """A sub-layer that is written as ``spec`` says."""

    hand: ByHand | None = None
    path: str
    shared_dropout: list[nn.Module]
    """In a list, so that it is not a child of each sub-layer."""

    def __init__(self, spec: SubLayer, branch: nn.Module | None) -> None:
        super().__init__()
        self.spec = spec
        self.copies = True
        """Whether a sum in place is written to a copy of x."""
        self.branch = branch or BRANCHES[spec.branch].build()
        for slot in ("before", "inside", "after"):
            if getattr(spec, slot) and spec.norm in NORMS:
                self.add_module(f"norm_{slot}", NORMS[spec.norm]())
        self.weight, self.gain = nn.Parameter(torch.ones(D)), nn.Parameter(torch.full((D,), 0.5))
        self.p = nn.Parameter(torch.randn(D))
        if spec.dropout == "module":
            self.dropout = nn.Dropout(0.1)

    def normed(self, slot: str, x: Tensor) -> Tensor:
        if self.spec.norm in FUNCTIONS:
            return FUNCTIONS[self.spec.norm](x, (D,), self.weight)
        y: Tensor = self.get_submodule(f"norm_{slot}")(x)
        return y

    def f(self, x: Tensor) -> Tensor:
        spec = self.spec
        if spec.before:
            x = self.normed("before", x)
        # The class's own forward, so that no module returns what is computed inline.
        inline = BRANCHES[spec.branch].inline
        f = states(self.branch.forward(x) if inline else self.branch(x))
        if spec.gain:
            f = f * self.gain
        if spec.inside:
            f = self.normed("inside", f)
        if spec.dropout == "function":
            f = F.dropout(f, 0.1, self.training)
        elif spec.dropout == "module":
            f = self.dropout(f)
        elif spec.dropout == "shared":
            f = self.shared_dropout[0](f)
        return f

    def forward(self, x: Tensor) -> Tensor:
        f = self.f(x)
        if self.hand is not None:
            key = self.hand.run(self.path)
            factor_x, factor_f = SUMS[self.spec.sum]
            entering = self.gain * f if "gain" in self.spec.sum else factor_f * f
            whole, f = f, self.hand.divided(key, f)
            self.hand.record(key, factor_x * x, entering)
        else:
            whole = f
        y = self.summed(x, f)
        if self.spec.after:
            y = self.normed("after", y)
        return y * whole.sigmoid() if self.spec.tapped else y

    def summed(self, x: Tensor, f: Tensor) -> Tensor:  # noqa: PLR0911
        match self.spec.sum:
            case "f + x":
                return f + x
            case "x += f":
                x = x.clone() if self.copies else x
                x += f
                return x
            case "f += x":
                return f.add_(x)
            case "x - f":
                return x - f
            case "0.5 * (x + f)":
                return 0.5 * (x + f)
            case "1.5 * x + 0.5 * f":
                return 1.5 * x + 0.5 * f
            case "add(x, f, alpha=0.5)":
                return torch.add(x, f, alpha=0.5)
            case "add(f, x, alpha=0.5)":
                return torch.add(f, x, alpha=0.5)
            case "addcmul(x, gain, f)":
                return torch.addcmul(x, self.gain, f)
            case "x + f + p":
                return x + f + self.p
            case "x + (f + p)":
                return x + (f + self.p)
        return x + f
