"""Post-LN connections of any model, found and rescaled with plain forward hooks.

This shares no code with the package and looks at no graph, but at numbers: a connection is a norm
whose input is the sum of two tensors x and f that modules took or returned before, where f changes
with x, and where nothing changes with f but the output of that norm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from _helpers.watched_pass import Pass, Place, run

_NORM = re.compile(r"(Layer|RMS)_?Norm(2d)?$", re.IGNORECASE)
_CLOSE = 1e-9
_LARGE = 1e12


@dataclass
class Connection:
    """A Post-LN connection: the call of its norm, and where its x can be read."""

    norm: Place
    x: Place
    order: tuple[int, ...]
    """How the axes of x are permuted in the sum."""
    before: Connection | None = None
    """The connection whose norm put out x."""


class Search:
    """The connections of a model in one pass."""

    def __init__(self, model: nn.Module, forward: Callable[[], Any]) -> None:
        self.model = model
        self.forward = forward
        self.plain = run(model, forward)
        self.places = list(self.plain.tensors)
        self.time = {place: i for i, place in enumerate(self.places)}
        self._checks: dict[int, Tensor] = {}
        self._of_size: dict[int, list[tuple[float, Place, tuple[int, ...]]]] = {}
        self.norms = [
            place
            for place in self.places
            if place.side == "in"
            and place.leaf == 0
            and _NORM.search(type(model.get_submodule(place.module)).__name__)
            and self._out(place) in self.plain.tensors
            and self.plain.tensors[self._out(place)].shape == self.plain.tensors[place].shape
        ]

    def connections(self) -> list[Connection]:
        """Return all connections, in the order of time."""
        found = [c for norm in self.norms if (c := self._connection(norm)) is not None]
        for connection in found:
            x = self.plain.tensors[connection.x]
            for other in found:
                if other is connection:
                    break
                if self._same(self.plain.tensors[self._out(other.norm)], x) is not None:
                    connection.before = other
        followed = [c.before for c in found]
        return [c for c in found if c.before or c in followed or not self._is_stream(c)]

    def _out(self, norm: Place) -> Place:
        return norm._replace(side="out")

    def _connection(self, norm: Place) -> Connection | None:
        pairs = list(self._pairs(norm))
        # What is a sum of others is no branch on a shortcut of zeros.
        full = [pair for pair in pairs if self.plain.tensors[pair[0]].any()]
        for x, order, f in full or pairs:
            if (
                self._changes(x, f)
                and self._only_through(norm, f)
                and self._is_sum(norm, x, order, f)
                and not self._pre_ln(x, f)
            ):
                return Connection(norm, x, order)
        return None

    def _pairs(self, at: Place) -> Iterator[tuple[Place, tuple[int, ...], Place]]:
        """Yield pairs of places, the earlier one first, whose tensors add up to that at a place."""
        total = self.plain.tensors[at]
        earlier = self._earlier(at)
        projections = torch.tensor([p for p, *_ in earlier], dtype=torch.float64)
        wanted = self._project(total) - projections
        order = projections.argsort()
        size = projections.abs().max().clamp(min=1e-30) if len(earlier) else 1.0
        low = torch.searchsorted(projections[order], wanted - 1e-8 * size)
        high = torch.searchsorted(projections[order], wanted + 1e-8 * size)
        for i, (start, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            for j in order[start:stop].tolist():
                (_, x, x_order), (_, f, f_order) = earlier[i], earlier[j]
                if self.time[x] >= self.time[f]:
                    continue
                left, right = self._turned(x, x_order, total), self._turned(f, f_order, total)
                small = 1e-12 * total.abs().max()
                empty = right.abs().max() <= small or (
                    left.abs().max() <= small and self._put_out(right)
                )
                if not empty and _near(left + right, total):
                    yield x, x_order, f

    def _earlier(self, at: Place) -> list[tuple[float, Place, tuple[int, ...]]]:
        """Return the distinct tensors before a place that have as many elements, by their axes."""
        size = self.plain.tensors[at].numel()
        if size not in self._of_size:
            self._of_size[size] = list(self._projections(size))
        found: dict[Any, tuple[float, Place, tuple[int, ...]]] = {}
        for projection, place, order in self._of_size[size]:
            if self.time[place] < self.time[at]:
                # Tensors of zeros, such as the queries of DETR, are not all the same tensor.
                key = (f"{projection:.10e}", place if projection == 0 else None)
                found.setdefault(key, (projection, place, order))
        return list(found.values())

    def _projections(self, size: int) -> Iterator[tuple[float, Place, tuple[int, ...]]]:
        # Outputs first: what a module returned can be changed for all that read it.
        for place in sorted(self.places, key=lambda place: (place.side == "in", self.time[place])):
            tensor = self.plain.tensors[place]
            # Masks hold the lowest number that there is.
            if tensor.numel() == size > 0 and tensor.abs().max() < _LARGE:
                for order in _orders(tensor):
                    yield self._project(tensor.permute(order)), place, order

    def _project(self, tensor: Tensor) -> float:
        size = tensor.numel()
        if size not in self._checks:
            generator = torch.Generator().manual_seed(size)
            self._checks[size] = torch.randn(size, generator=generator, dtype=torch.float64)
        return float(self._checks[size] @ tensor.double().reshape(-1))

    def _turned(self, place: Place, order: tuple[int, ...], like: Tensor) -> Tensor:
        return self.plain.tensors[place].permute(order).reshape(like.shape)

    def _put_out(self, tensor: Tensor) -> bool:
        """Return whether a norm put a tensor out."""
        outputs = (self.plain.tensors[self._out(norm)] for norm in self.norms)
        return any(self._same(output, tensor) is not None for output in outputs)

    def _same(self, tensor: Tensor, other: Tensor) -> tuple[int, ...] | None:
        """Return how the axes of ``tensor`` are permuted in ``other``, if they are the same."""
        if tensor.numel() == other.numel():
            for order in _orders(tensor):
                if _near(tensor.permute(order).reshape(other.shape), other):
                    return order
        return None

    def _perturbed(self, at: Place, frozen: Sequence[Place] = (), size: float = 0.01) -> Pass:
        """Run with noise on the tensor at a place, and what is at others as it was."""
        changed = {at}
        if at.side == "in":
            # No module returned it, so each that reads it takes a changed one.
            tensor = self.plain.tensors[at]
            takers = (place for place in self.places if place.side == "in")
            changed |= {p for p in takers if _near(self.plain.tensors[p], tensor)}

        def change(place: Place, tensor: Tensor) -> Tensor | None:
            if place in changed:
                generator = torch.Generator().manual_seed(1)
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                return tensor + size * (tensor.std() or 1.0) * noise.to(tensor.dtype)
            return self.plain.tensors[place] if place in frozen else None

        return run(self.model, self.forward, change)

    def _changes(self, x: Place, f: Place) -> bool:
        return not _near(self._perturbed(x).tensors[f], self.plain.tensors[f])

    def _is_sum(self, norm: Place, x: Place, order: tuple[int, ...], f: Place) -> bool:
        """Return whether the norm takes x + f however large f is, and not that within bounds."""
        changed = self._perturbed(f, size=1e8).tensors
        total, plain = changed[norm], self.plain.tensors
        branch = total - plain[x].permute(order).reshape(total.shape)
        return self._same(changed[f], branch) is not None

    def _only_through(self, norm: Place, f: Place) -> bool:
        """Return whether nothing but the norm's output changes with f."""
        changed = self._perturbed(f, frozen=[self._out(norm)])
        # What a layer returns beside its output may be read by nothing.
        later = [p for p in self.places[self.time[self._out(norm)] + 1 :] if p.side == "in"]
        return all(
            _near(changed.tensors[place], self.plain.tensors[place]) for place in later
        ) and all(
            map(
                _near,
                changed.output + changed.buffers,
                self.plain.output + self.plain.buffers,
            )
        )

    def _pre_ln(self, x: Place, f: Place) -> bool:
        """Return whether f reads x only through norms, where x is itself no output of a norm."""
        tensor = self.plain.tensors[x]
        put_out = any(
            self._same(self.plain.tensors[self._out(norm)], tensor) is not None
            for norm in self.norms
            if self.time[norm] < self.time[f]
        )
        reading = [
            self._out(norm)
            for norm in self.norms
            if self.time[norm] < self.time[f]
            and self._same(self.plain.tensors[norm], tensor) is not None
        ]
        if put_out or not reading:
            return False
        changed = self._perturbed(x, frozen=reading)
        return _near(changed.tensors[f], self.plain.tensors[f])

    def _is_stream(self, connection: Connection) -> bool:
        """Return whether x is itself the sum of an x and an f that no norm reads."""
        place = connection.x
        return any(self._changes(x, f) for x, _, f in self._pairs(place))


def _orders(tensor: Tensor) -> list[tuple[int, ...]]:
    if tensor.ndim > 4:
        return [tuple(range(tensor.ndim))]
    return list(permutations(range(tensor.ndim)))


def _near(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    if not left.numel():
        return True
    # Scores of what is masked are infinite.
    same = (left == right) | (left.isnan() & right.isnan())
    apart = (left - right).masked_fill(same, 0).abs().max()
    return bool(apart <= _CLOSE * right.masked_fill(~right.isfinite(), 0).abs().max())


def rescaled(
    model: nn.Module,
    forward: Callable[[], Any],
    connections: Sequence[Connection],
    omegas: dict[str, float] | None = None,
) -> tuple[list[Tensor], dict[str, float]]:
    """Run with x + f / omega in place of x + f.

    Args:
        model: A model without omegas.
        forward: Runs it.
        connections: Its connections.
        omegas: Omega by the name of the norm. By default, that of the rule.

    Returns:
        The outputs, and the omegas that the rule gives.
    """
    at = {connection.norm: connection for connection in connections}
    wanted = {connection.x for connection in connections}
    now: dict[Place, Tensor] = {}
    rule: dict[str, float] = {}
    following: dict[str, float] = {}

    def change(place: Place, tensor: Tensor) -> Tensor | None:
        if place in wanted:
            now[place] = tensor.detach().clone()
        if (connection := at.get(place)) is not None:
            x = now[connection.x].permute(connection.order).reshape(tensor.shape)
            f = tensor - x
            name = place.module
            previous = connection.before
            rule[name] = 1.0 if previous is None else following[previous.norm.module]
            omega = rule[name] if omegas is None else omegas[name]
            variances = [t.double().var(correction=0).item() for t in (x, f)]
            following[name] = math.sqrt(omega**2 * variances[0] + variances[1])
            return x + f / omega
        return None

    return run(model, forward, change, keep=False).output, rule
