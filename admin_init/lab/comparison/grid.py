"""The axes of a comparison: a run for each combination of their values."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from admin_init._utils.validation import PositiveInt, Seed
from admin_init.errors import AdminInitError

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]


class Variant(NamedTuple):
    """One point of the grid: one run. What is None is common to all runs."""

    residual: str
    """Residual style."""
    depth: str
    """Encoder and decoder layers, as the papers write them: ``18-18``."""
    learning_rate: float
    """Highest learning rate."""
    seed: int
    """Of the initialization, the order of the batches and dropout."""
    width: int | None = None
    """Channels of the residual stream."""
    warmup_steps: int | None = None
    """Updates of linear warm-up."""
    max_tokens: int | None = None
    """The most tokens of a side of a batch."""
    precision: Precision | None = None
    """Numeric precision, as in `Trainer(precision=...)`."""
    beta2: float | None = None
    """Decay of the optimizer's second moments."""

    @property
    def layers(self) -> tuple[int, int]:
        """Number of encoder layers, and of decoder layers."""
        encoder, decoder = self.depth.split("-")
        return int(encoder), int(decoder)

    @property
    def kind(self) -> str:
        """All but the seed: what runs that differ in nothing else share."""
        parts = {
            "d": self.width,
            "warmup": self.warmup_steps,
            "tokens": self.max_tokens,
            "": self.precision,
            "beta": None if self.beta2 is None else f"{self.beta2:g}",
        }
        given = "".join(f"_{name}{value}" for name, value in parts.items() if value is not None)
        return f"{self.residual}_{self.depth}_lr{self.learning_rate:g}{given}"

    @property
    def name(self) -> str:
        """Name of the run, and of its folder."""
        return f"{self.kind}_seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Everything that differs between runs; a run for each combination.

    An axis that is left out has one value, that of the settings which all runs have in common.
    """

    residual: list[str] = field(default_factory=lambda: ["post", "pre", "admin"])
    """Residual styles."""

    depth: list[str] = field(default_factory=lambda: ["18-18"])
    """Encoder and decoder layers, such as `18-18`; `0-32` is decoder-only."""

    learning_rate: list[float] = field(default_factory=lambda: [1e-3])
    """Highest learning rates."""

    seed: list[Seed] = field(default_factory=lambda: [1])
    """Seeds of the initialization, the batches and dropout."""

    width: list[int] | None = None
    """Values of `transformer.dim`; `transformer.ffn_dim` keeps its ratio to it."""

    warmup_steps: list[int] | None = None
    """Values of `optimization.warmup_steps`."""

    max_tokens: list[PositiveInt] | None = None
    """Batch sizes, values of `max_tokens`."""

    precision: list[Precision] | None = None
    """Values of `precision`."""

    beta2: list[float] | None = None
    """Values of the second of `optimization.betas`."""

    def variants(self) -> list[Variant]:
        """List the runs; those of one seed together.

        Raises:
            AdminInitError: A depth is not of the form `18-18`, or has no decoder.
        """
        for depth in self.depth:
            check_depth(depth)
        values = [
            [None] if (axis := getattr(self, name)) is None else axis for name in _SLOWEST_FIRST
        ]
        return [
            Variant(**dict(zip(_SLOWEST_FIRST, point, strict=True)))
            for point in itertools.product(*values)
        ]


# So that the report lists styles side by side.
_SLOWEST_FIRST = (
    "seed",
    "precision",
    "beta2",
    "max_tokens",
    "warmup_steps",
    "width",
    "depth",
    "learning_rate",
    "residual",
)


def check_depth(depth: str) -> None:
    """See that layers are written as the papers do.

    Raises:
        AdminInitError: They are not, or there is no decoder.
    """
    layers = depth.split("-")
    if len(layers) != 2 or not all(part.isdecimal() for part in layers):
        raise AdminInitError(f"`depth` must be of the form `18-18`, but is {depth!r}.")
    if int(layers[1]) == 0:
        raise AdminInitError(
            f"`depth` must have at least one decoder layer to translate with, but is {depth!r}; "
            "decoder-only is `0-32`."
        )
