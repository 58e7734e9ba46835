"""The axes of a comparison: a run for each combination of their values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from admin_init._utils.typed_json import from_json
from admin_init._utils.validation import PositiveFloat, PositiveInt, Seed
from admin_init.errors import AdminInitError
from admin_init.nn import TransformerConfig
from admin_init.nn.config import Initialization, Sharing
from admin_init.omega import Rule
from admin_init.translation.optimization import OptimizationConfig

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]


class Axis(NamedTuple):
    """An optional axis, whose values replace settings that all runs share otherwise."""

    name: str
    """Format of a value in the name of a run."""
    title: str
    """Format of a value in a report."""
    replaced: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    """Returns the shared settings that a value replaces, by name."""


@dataclass(frozen=True)
class Variant:
    """One point of the grid: one run."""

    residual: str
    """Residual style."""
    depth: str
    """Numbers of encoder and decoder layers, such as ``18-18``."""
    learning_rate: float
    """Peak learning rate."""
    seed: int
    """Seed of the initialization, the order of the batches and dropout."""
    others: dict[str, Any] = field(default_factory=dict, hash=False)
    """Values of the optional axes that the grid sets, by name."""

    @classmethod
    def pop_from(cls, values: dict[str, Any]) -> Variant:
        """Take the :attr:`axes` of a variant out of a mapping, and build it from them.

        Raises:
            AdminInitError: A value is missing, or does not fit its axis.
        """
        others = {name: v for name in AXES if (v := values.pop(name, None)) is not None}
        from_json(Grid, {name: [value] for name, value in others.items()})  # checks their types
        always = {name: values.pop(name) for name in _ALWAYS if name in values}
        variant = from_json(cls, {**always, "others": others})
        check_depth(variant.depth)
        return variant

    @property
    def axes(self) -> dict[str, Any]:
        """Its value on every axis of the grid; None on an axis that the grid leaves out."""
        always = {name: getattr(self, name) for name in _ALWAYS}
        return {**always, **{name: self.others.get(name) for name in AXES}}

    @property
    def layers(self) -> tuple[int, int]:
        """Number of encoder layers, and of decoder layers."""
        encoder, decoder = self.depth.split("-")
        return int(encoder), int(decoder)

    @property
    def group(self) -> str:
        """Name without the seed, shared by the runs that differ only in their seed."""
        others = [AXES[n].name.format(self.others[n]) for n in AXES if n in self.others]
        return "_".join([self.residual, self.depth, f"lr{self.learning_rate:g}", *others])

    @property
    def name(self) -> str:
        """Name of the run, and of its folder."""
        return f"{self.group}_seed{self.seed}"


def _width(common: Mapping[str, Any], dim: int) -> dict[str, Any]:
    default, shape = TransformerConfig(), common["transformer"]
    ratio = shape.get("ffn_dim", default.ffn_dim) / shape.get("dim", default.dim)
    return {"transformer": shape | {"dim": dim, "ffn_dim": round(dim * ratio)}}


def _within(setting: str, option: str) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    return lambda common, value: {setting: common[setting] | {option: value}}


def _beta2(common: Mapping[str, Any], beta2: float) -> dict[str, Any]:
    beta1, _ = common["optimization"].get("betas", OptimizationConfig().betas)
    return {"optimization": common["optimization"] | {"betas": (beta1, beta2)}}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes of a comparison: a run for each combination of their values.

    On an axis that is left out, all runs have the shared setting of the comparison.
    """

    residual: list[str] = field(default_factory=lambda: ["post", "pre", "admin"])
    """Residual styles."""

    depth: list[str] = field(default_factory=lambda: ["18-18"])
    """Numbers of encoder and decoder layers, such as `18-18`; `0-32` is decoder-only."""

    learning_rate: list[float] = field(default_factory=lambda: [1e-3])
    """Peak learning rates."""

    seed: list[Seed] = field(default_factory=lambda: [1])
    """Seeds of the initialization, the order of the batches and dropout."""

    width: list[int] | None = field(
        default=None, metadata={"axis": Axis("d{}", "width {}", _width)}
    )
    """Values of `transformer.dim`; `transformer.ffn_dim` is scaled in proportion."""

    warmup_steps: list[int] | None = field(
        default=None,
        metadata={"axis": Axis("warmup{}", "warm-up {}", _within("optimization", "warmup_steps"))},
    )
    """Values of `optimization.warmup_steps`."""

    max_tokens: list[PositiveInt] | None = field(
        default=None,
        metadata={"axis": Axis("tokens{}", "{} tokens", lambda _, value: {"max_tokens": value})},
    )
    """Values of `max_tokens`, the batch size."""

    precision: list[Precision] | None = field(
        default=None, metadata={"axis": Axis("{}", "{}", lambda _, value: {"precision": value})}
    )
    """Values of `precision`."""

    beta2: list[float] | None = field(
        default=None, metadata={"axis": Axis("beta{:g}", "beta2 {:g}", _beta2)}
    )
    """Values of Adam's beta2, the second of `optimization.betas`."""

    rule: list[Rule] | None = field(
        default=None, metadata={"axis": Axis("{}", "rule {}", _within("admin", "rule"))}
    )
    """Values of `admin.rule`."""

    input_share: list[float] | None = field(
        default=None, metadata={"axis": Axis("share{:g}", "share {:g}", _within("admin", "share"))}
    )
    """Values of `admin.share`."""

    omega: list[float] | None = field(
        default=None,
        metadata={"axis": Axis("omega{:g}", "omega {:g}", lambda _, value: {"omega": value})},
    )
    """Values of `omega`."""

    initialization: list[Initialization] | None = field(
        default=None,
        metadata={
            "axis": Axis("init-{}", "{} initialization", _within("transformer", "initialization"))
        },
    )
    """Values of `transformer.initialization`."""

    branch_scale: list[PositiveFloat] | None = field(
        default=None,
        metadata={
            "axis": Axis("branch{:g}", "branches x {:g}", _within("transformer", "branch_scale"))
        },
    )
    """Values of `transformer.branch_scale`."""

    input_scale: list[PositiveFloat] | None = field(
        default=None,
        metadata={"axis": Axis("input{:g}", "input x {:g}", _within("transformer", "input_scale"))},
    )
    """Values of `transformer.input_scale`."""

    share_embeddings: list[Sharing] | None = field(
        default=None,
        metadata={
            "axis": Axis(
                "tied-{}", "tied embeddings: {}", _within("transformer", "share_embeddings")
            )
        },
    )
    """Values of `transformer.share_embeddings`."""

    def variants(self) -> list[Variant]:
        """List the runs by seed; within a setting, the residual styles follow each other.

        Raises:
            AdminInitError: A depth is not of the form `18-18`, or has no decoder.
        """
        for depth in self.depth:
            check_depth(depth)
        given = {
            name: values for name in reversed(AXES) if (values := getattr(self, name)) is not None
        }
        return [
            Variant(residual, depth, learning_rate, seed, dict(zip(given, others, strict=True)))
            for seed in self.seed
            for others in itertools.product(*given.values())
            for depth in self.depth
            for learning_rate in self.learning_rate
            for residual in self.residual
        ]


AXES: dict[str, Axis] = {
    each.name: each.metadata["axis"] for each in fields(Grid) if "axis" in each.metadata
}
"""The optional axes, in their order in the name of a run."""

_ALWAYS = ("residual", "depth", "learning_rate", "seed")


def check_depth(depth: str) -> None:
    """Check that a depth has the form ``18-18``.

    Raises:
        AdminInitError: It has another form, or no decoder layer.
    """
    layers = depth.split("-")
    if len(layers) != 2 or not all(part.isdecimal() for part in layers):
        raise AdminInitError(f"`depth` must be of the form `18-18`, but is {depth!r}.")
    if int(layers[1]) == 0:
        raise AdminInitError(
            f"`depth` must have at least one decoder layer, but is {depth!r}; a decoder-only model "
            "is written `0-32`."
        )
