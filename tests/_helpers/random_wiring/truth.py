"""The residual connections of a random module, as its wiring says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from _helpers.random_wiring.model import Model, Op
from _helpers.random_wiring.parts import BRANCHES, NORMS
from _helpers.random_wiring.sub_layer import Sub

MIXED = "its shortcut is computed from the output of the norm of"
REPEATED = "runs [0-9]+ times in one pass, as in layers that are shared between depths"
TERMS = "its sum has another term"
TAPPED = "its branch is also read elsewhere"
INLINE = "no module returns its branch"
RUNS = "its branch ends in a [A-Za-z0-9]+ that runs [0-9]+ times"
SHARED = "its branch ends in the same module, .* as another one"


@dataclass(eq=False)
class Stream:
    """What flows from one step to the next."""

    how: str
    """``norm``, ``sum``, ``scaled``, ``elementwise`` or ``opaque``."""
    parents: tuple[Stream, ...] = ()
    connection: Connection | None = None
    """Of a sum; of a norm: that of the sum it reads."""
    readers: list[str] = field(default_factory=list)
    """Names of norms that are modules; ``function`` or ``other``."""


@dataclass(eq=False)
class Connection:
    """A sum of x and f(x)."""

    key: str
    x: Stream
    ends: list[str]
    """Modules that return f(x) up to linear elementwise steps, inner ones first."""
    within: str
    """The module that computes the sum."""
    norm_before: bool = False
    tapped: bool = False
    third_term: bool = False
    folds: bool = True
    total: Stream = field(default_factory=lambda: Stream("sum"))

    @property
    def norm(self) -> str | None:
        """What reads the sum, if it is a norm and nothing else does."""
        readers = self.total.readers
        return readers[0] if len(readers) == 1 and readers[0] != "other" else None

    @property
    def post(self) -> bool:
        return self.norm is not None and (not self.norm_before or _put_out(self.x))

    @property
    def pre(self) -> bool:
        return self.norm_before and not self.post


@dataclass
class Truth:
    """What a random module computes."""

    served: dict[str, Connection] = field(default_factory=dict)
    """The connections to rescale, by the names of their branches' ends."""
    previous: dict[str, str | None] = field(default_factory=dict)
    """Key of the connection before, by key."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason of the other Post-LN ones."""
    pre: int = 0
    """Number of the Pre-LN ones."""
    unfoldable: set[str] = field(default_factory=set)


class _Walk:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.connections: list[Connection] = []
        self.runs: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()

    def run(self, ops: Sequence[Op], x: Stream) -> Stream:
        for op in ops:
            x = self.step(op, x)
        return x

    def key(self, path: str) -> str:
        self.keys[path] += 1
        return f"{path}#{self.keys[path]}"

    def step(self, op: Op, x: Stream) -> Stream:  # noqa: PLR0911
        kind, _, join = op.what.partition(", ")
        match kind:
            case "sub":
                return self.sub(self.model._sub(op.number), x)
            case "sides":
                left, right = self.run(op.left, x), self.run(op.right, x)
                for side in (left, right):
                    side.readers.append("other")
                return Stream("elementwise" if join != "concatenate" else "opaque", (left, right))
            case "U-Net":
                return self.u_net(op, join, x)
            case "norm":
                name = f"others.{op.number}" if op.norm in NORMS else "function"
                return self.normed(x, name)
            case "keep":
                return x
        if kind in ("scale", "dropout"):
            x.readers.append("other")
            return Stream("scaled", (x,))
        x.readers.append("other")
        return Stream("elementwise" if kind == "positions" else "opaque", (x,))

    def normed(self, x: Stream, name: str) -> Stream:
        x.readers.append(name)
        return Stream("norm", connection=x.connection if x.how == "sum" else None)

    def u_net(self, op: Op, join: str, x: Stream) -> Stream:
        x.readers.append("other")
        inner = self.run(op.left, Stream("opaque"))
        x.readers.append("other")
        inner.readers.append("other")
        if join == "concatenate":
            return Stream("opaque")
        self.runs[f"others.{op.norm}"] += 1
        return self.summed(Connection(self.key(f"others.{op.norm}"), x, [f"others.{op.norm}"], ""))

    def sub(self, sub: Sub, x: Stream) -> Stream:
        spec, kind = sub.spec, BRANCHES[sub.spec.branch]
        x.readers += ["other", "other"]
        names = {module: name for name, module in self.model.named_modules()}
        ends: list[str] = []
        if spec.inside:
            ends = [f"{sub.path}.norm_inside"] if spec.norm in NORMS else []
        elif kind.end is not None:
            ends = [f"{names[sub.branch]}.{kind.end}".rstrip(".")]
        dropout = {"module": f"{sub.path}.dropout", "shared": "dropout"}.get(spec.dropout)
        if dropout:
            ends.append(dropout)
        if kind.end is not None:
            self.runs[f"{names[sub.branch]}.{kind.end}".rstrip(".")] += 1
        for name in {*ends} - {f"{names[sub.branch]}.{kind.end}".rstrip(".")}:
            self.runs[name] += 1
        if spec.sum == "x + (f + p)":
            ends = []
        connection = Connection(
            self.key(sub.path),
            x,
            ends,
            sub.path,
            norm_before=spec.before,
            tapped=spec.tapped and spec.sum != "x + (f + p)",
            third_term=spec.sum == "x + f + p",
            folds=kind.folds and not spec.inside,
        )
        connection.branch = sub.branch  # type: ignore[attr-defined]
        y = self.summed(connection)
        if spec.after:
            y = self.normed(y, f"{sub.path}.norm_after" if spec.norm in NORMS else "function")
        if spec.tapped:
            y.readers.append("other")
            y = Stream("elementwise", (y,))
        return y

    def summed(self, connection: Connection) -> Stream:
        connection.total.connection = connection
        connection.total.parents = (connection.x,)
        self.connections.append(connection)
        return connection.total


def truth_of(model: Model) -> Truth:
    """Return what a model computes, from its wiring alone."""
    walk = _Walk(model)
    walk.run(model.ops, Stream("opaque"))
    post = [c for c in walk.connections if c.post]
    norms = Counter(c.norm for c in post if c.norm != "function")
    truth = Truth(pre=sum(c.pre for c in walk.connections))
    ends = Counter(None if c.tapped or c.third_term else _end(c, walk) for c in post)
    branches = Counter(getattr(c, "branch", c) for c in walk.connections)
    for c in post:
        end = _end(c, walk)
        problem = _problem(c, end, norms, ends)
        if problem is None:
            assert end is not None
            truth.served[end] = c
            before = _source(c.x)
            keys = {other.key for other in truth.served.values()}
            truth.previous[c.key] = before.key if before and before.key in keys else None
            if not c.folds or branches[getattr(c, "branch", c)] > 1:
                truth.unfoldable.add(end)
        else:
            name = None if c.tapped or c.third_term else end
            fallback = c.norm if c.norm != "function" else c.within
            truth.refused.append((name or fallback or "", problem))
    return truth


def _end(c: Connection, walk: _Walk) -> str | None:
    once = [name for name in c.ends if walk.runs[name] == 1]
    # Several calls are told apart if all are inside one call of another module.
    again = c.ends if walk.keys[c.within] > 1 else []
    return next(iter(once or again), None)


def _problem(
    c: Connection, end: str | None, norms: Counter[str | None], ends: Counter[str | None]
) -> str | None:
    if norms[c.norm] > 1:
        return REPEATED
    if _source(c.x) is None and _mixed(c.x):
        return MIXED
    if c.third_term:
        return TERMS
    if c.tapped:
        return TAPPED
    if end is None:
        return RUNS if c.ends else INLINE
    return SHARED if ends[end] > 1 else None


def _put_out(x: Stream) -> bool:
    while x.how == "scaled":
        x = x.parents[0]
    return x.how == "norm"


def _source(x: Stream) -> Connection | None:
    while x.how == "scaled":
        x = x.parents[0]
    found = x.connection if x.how == "norm" else None
    return found if found is not None and found.post else None


def _mixed(x: Stream) -> bool:
    if x.how == "norm":
        return x.connection is not None and x.connection.post
    return x.how != "opaque" and any(map(_mixed, x.parents))
