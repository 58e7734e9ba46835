"""Random modules: sub-layers, wired at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _helpers.random_wiring.parts import FUNCTIONS, NORMS, D
from _helpers.random_wiring.sub_layer import ByHand, Sub, SubLayer

TOKENS = 7


@dataclass(frozen=True)
class Again:
    """An earlier sub-layer, run once more."""

    which: int


@dataclass(frozen=True)
class Sides:
    """Sub-layers that run side by side."""

    left: tuple[SubLayer, ...]
    right: tuple[SubLayer, ...]
    join: str = "add"


@dataclass(frozen=True)
class UNet:
    """Sub-layers between two linear maps, with a skip over all of them."""

    inner: tuple[SubLayer, ...]
    join: str = "add"


@dataclass(frozen=True)
class Step:
    """Anything else between sub-layers."""

    what: str
    norm: str = "LayerNorm"


Stage = SubLayer | Again | Sides | UNet | Step


@dataclass(frozen=True)
class Wiring:
    """A random module."""

    stages: tuple[Stage, ...]
    inputs: str = "floats"
    outputs: str = "tensor"


@dataclass
class Outputs:
    last: Tensor
    states: list[Tensor]


@dataclass(frozen=True)
class Op:
    """One step of the forward, with numbers instead of modules."""

    what: str
    number: int = 0
    norm: str = ""
    left: tuple[Op, ...] = ()
    right: tuple[Op, ...] = ()


class Model(nn.Module):
    """The module that a wiring describes."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring
        self.embedding = nn.Embedding(TOKENS, D)
        self.positions = nn.Parameter(torch.randn(5, D))
        self.gain = nn.Parameter(torch.ones(D))
        self.dropout = nn.Dropout(0.1)
        self.subs, self.others = nn.ModuleList(), nn.ModuleList()
        start = {"floats": [], "ids": ["embed"], "ids, norm": ["embed", "positions", "norm"]}
        begin = [self._op(Step(what)) for what in start[wiring.inputs]]
        self.ops = (*begin, *(self._op(stage) for stage in wiring.stages))
        self._never_overwrite(self.ops)
        self.hand: ByHand | None = None

    def _op(self, stage: Stage) -> Op:  # noqa: PLR0911
        match stage:
            case SubLayer():
                shared = None
                if stage.branch_of is not None and self.subs:
                    source = self._sub(stage.branch_of % len(self.subs))
                    if source.spec.branch == stage.branch:
                        shared = source.branch
                sub = Sub(stage, shared)
                sub.path = f"subs.{len(self.subs)}"
                sub.shared_dropout = [self.dropout]
                self.subs.append(sub)
                return Op("sub", len(self.subs) - 1)
            case Again():
                return Op("sub", stage.which % len(self.subs)) if self.subs else Op("scale")
            case Sides():
                left, right = (tuple(map(self._op, side)) for side in (stage.left, stage.right))
                number = self._add(nn.Linear(2 * D, D))
                return Op(f"sides, {stage.join}", number, "", left, right)
            case UNet():
                down = self._add(nn.Linear(D, D))
                inner = tuple(map(self._op, stage.inner))
                up = self._add(nn.Linear(2 * D if stage.join == "concatenate" else D, D))
                return Op(f"U-Net, {stage.join}", down, str(up), inner)
            case Step("norm"):
                number = -1
                if stage.norm in NORMS:
                    number = self._add(NORMS[stage.norm]())
                return Op("norm", number, stage.norm)
            case Step("linear"):
                return Op("linear", self._add(nn.Linear(D, D)))
        return Op(stage.what)

    def _add(self, module: nn.Module) -> int:
        self.others.append(module)
        return len(self.others) - 1

    def _sub(self, number: int) -> Sub:
        sub = self.subs[number]
        assert isinstance(sub, Sub)
        return sub

    def _never_overwrite(self, ops: tuple[Op, ...], fresh: bool = False) -> None:
        """Allow sums in place only where nothing else reads x, as one would write them."""
        seen = set()
        for op in ops:
            self._never_overwrite(op.left, op.what.startswith("U-Net"))
            self._never_overwrite(op.right)
            if op.what == "sub":
                sub = self._sub(op.number)
                sub.copies = not fresh or op.number in seen
                seen.add(op.number)
                fresh = sub.spec.after
            else:
                fresh = op.what in ("linear", "norm")

    def forward(self, x: Tensor) -> Any:
        kept: list[Tensor] = []
        x = self._run(self.ops, x, kept)
        match self.wiring.outputs:
            case "tuple":
                return x, *kept
            case "dict":
                return {"last": x, "states": kept}
            case "dataclass":
                return Outputs(x, kept)
        return x

    def _run(self, ops: tuple[Op, ...], x: Tensor, kept: list[Tensor]) -> Tensor:
        for op in ops:
            if op.what.startswith("sides"):
                left, right = (self._run(side, x, kept) for side in (op.left, op.right))
                x = self._joined(op, left, right)
            elif op.what.startswith("U-Net"):
                x = self._u_net(op, x, kept)
            else:
                x = self._step(op, x, kept)
        return x

    def _step(self, op: Op, x: Tensor, kept: list[Tensor]) -> Tensor:  # noqa: PLR0911
        match op.what:
            case "sub":
                return self._sub(op.number)(x)
            case "linear":
                return self.others[op.number](x)
            case "norm":
                if op.norm in FUNCTIONS:
                    return FUNCTIONS[op.norm](x, (D,), self.gain)
                return self.others[op.number](x)
            case "embed":
                return self.embedding(x)
            case "positions":
                return x + self.positions
            case "scale":
                return x * 0.5
            case "dropout":
                return F.dropout(x, 0.1, self.training)
            case "keep":
                kept.append(x)
        return x

    def _joined(self, op: Op, left: Tensor, right: Tensor) -> Tensor:
        match op.what.partition(", ")[2]:
            case "add":
                return left + right
            case "multiply":
                return left * right
        return self.others[op.number](torch.cat((left, right), -1))

    def _u_net(self, op: Op, x: Tensor, kept: list[Tensor]) -> Tensor:
        down, up = self.others[op.number], self.others[int(op.norm)]
        inner = self._run(op.left, down(x), kept)
        if op.what == "U-Net, concatenate":
            return up(torch.cat((x, inner), -1))
        f = up(inner)
        if self.hand is not None:
            key = self.hand.run(f"others.{op.norm}")
            whole, f = f, self.hand.divided(key, f)
            self.hand.record(key, x, whole)
        return x + f


def leaves(outputs: Any) -> list[Tensor]:
    """Return the tensors that a model returns."""
    match outputs:
        case Outputs():
            return [outputs.last, *outputs.states]
        case dict():
            return [outputs["last"], *outputs["states"]]
        case tuple():
            return list(outputs)
    return [outputs]
