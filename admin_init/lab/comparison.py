"""What is compared: a grid of variants on one corpus, as one YAML file says it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from admin_init.errors import AdminInitError
from admin_init.lab.verdict import Criteria
from admin_init.translation.engine import FairseqConfig
from admin_init.translation.sources import CorpusConfig


class Variant(NamedTuple):
    """One point of the grid: one run."""

    residual: str
    """Residual style."""
    encoder_layers: int
    """Number of encoder layers."""
    decoder_layers: int
    """Number of decoder layers."""
    learning_rate: float
    """Highest learning rate."""
    seed: int
    """Of the initialization, the order of the batches and dropout."""

    @property
    def depth(self) -> str:
        """Encoder and decoder layers, as the papers write them: ``18-18``."""
        return f"{self.encoder_layers}-{self.decoder_layers}"

    @property
    def name(self) -> str:
        """Name of the run, and of its folder."""
        return f"{self.residual}_{self.depth}_lr{self.learning_rate:g}_seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Everything that differs between runs; a run for each combination."""

    residual: list[str] = field(default_factory=lambda: ["post", "pre", "admin"])
    """Residual styles."""

    depth: list[str] = field(default_factory=lambda: ["18-18"])
    """Encoder and decoder layers, such as `18-18`."""

    learning_rate: list[float] = field(default_factory=lambda: [1e-3])
    """Highest learning rates."""

    seed: list[int] = field(default_factory=lambda: [1])
    """Seeds of the initialization, the batches and dropout."""

    def variants(self) -> list[Variant]:
        """List the runs; those of one seed together.

        Raises:
            AdminInitError: A depth is not of the form `18-18`.
        """
        variants = []
        for seed, depth, rate, residual in itertools.product(
            self.seed, self.depth, self.learning_rate, self.residual
        ):
            layers = depth.split("-")
            if len(layers) != 2 or not all(part.isdecimal() for part in layers):
                raise AdminInitError(f"`depth` must be of the form `18-18`, but is {depth!r}.")
            variants.append(Variant(residual, int(layers[0]), int(layers[1]), rate, seed))
        return variants


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs to be trained side by side, and what they have in common.

    Raises:
        AdminInitError: A value is out of its range; the message lists every one of them.
    """

    title: str = "Comparison"
    """Heading of the report."""

    output: str = "runs/comparison"
    """Folder of the runs, the results and the report."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """What to train on; prepared in `output`/data-bin."""

    vocabulary_size: int = 4000
    """The most subwords of both languages together."""

    grid: Grid = field(default_factory=Grid)
    """What differs between runs."""

    transformer: dict[str, Any] = field(default_factory=dict)
    """Shape of the models, see TransformerConfig; without layers and residual style."""

    fairseq: FairseqConfig | None = None
    """Let fairseq build the models: `{}` for its Transformer in the shape of ours."""

    optimization: dict[str, Any] = field(default_factory=dict)
    """How the weights are updated, see OptimizationConfig; without the learning rate."""

    search: dict[str, Any] = field(default_factory=dict)
    """How translations are searched for, see SearchConfig."""

    label_smoothing: float = 0.1
    """Probability mass spread over the vocabulary."""

    max_steps: int = 500
    """Updates of each run."""

    max_tokens: int = 1024
    """The most tokens of a side of a batch."""

    validate_every: int = 100
    """Updates between two validations; each also writes a checkpoint."""

    bleu: bool = False
    """Whether to translate and score the test split."""

    average: int = 1
    """How many of the last checkpoints, one a validation, are averaged into the model that is
    scored."""

    workers: int = 1
    """Runs at a time, each in a process of its own."""

    threads: int = 1
    """Threads of each process."""

    criteria: Criteria = field(default_factory=Criteria)
    """What counts as failed."""

    def __post_init__(self) -> None:
        problems = [
            f"`{name}` must be at least 1, but is {value}."
            for name in (
                "max_steps",
                "max_tokens",
                "validate_every",
                "average",
                "workers",
                "threads",
            )
            if (value := getattr(self, name)) < 1
        ]
        names = [variant.name for variant in self.grid.variants()]
        if not names:
            problems.append("`grid` must give at least one run, but one of its lists is empty.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            problems.append(f"`grid` must give every run once, but gives {twice} several times.")
        if problems:
            raise AdminInitError(" ".join(problems))
