"""Configuration of a comparison: a grid of variants on one corpus, in one YAML file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from admin_init._utils.atomic_files import read_checked, write_checked
from admin_init._utils.typed_json import from_json
from admin_init._utils.validation import (
    POSITIVE,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    at_least,
    type_problems,
)
from admin_init.errors import AdminInitError
from admin_init.lab.comparison.criteria import Criteria
from admin_init.lab.comparison.grid import AXES, Grid, Precision, Variant
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.corpora.config import CorpusConfig


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Settings of a comparison: the grid of its runs, and what all runs share.

    Raises:
        AdminInitError: Values are out of range; the message lists all of them.
    """

    title: str = "Comparison"
    """Heading of the report."""

    output: str = "runs/comparison"
    """Folder of the runs, the results and the report."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Corpus to train on, prepared in `output`/data-bin."""

    vocabulary_size: PositiveInt = 4000
    """Maximum size of the vocabulary, joint for both languages."""

    grid: Grid = field(default_factory=Grid)
    """Settings that vary between runs. Each combination of their values is one run."""

    transformer: dict[str, Any] = field(default_factory=dict)
    """Options of TransformerConfig for all models, except the numbers of layers and the residual
    style, which the grid sets."""

    fairseq: FairseqConfig | None = None
    """Build the models with fairseq. `{}` selects fairseq's Transformer with the dimensions that
    `transformer` gives."""

    admin: dict[str, Any] = field(default_factory=dict)
    """Options of AdminInit, such as `rule` and `share`, for the styles that a profile belongs to.
    `share` only counts where the rule is `share`."""

    omega: PositiveFloat | None = None
    """One constant omega for all sub-layers of these styles, in place of a profile."""

    optimization: dict[str, Any] = field(default_factory=dict)
    """Options of OptimizationConfig for all runs, except the learning rate, which the grid
    sets."""

    search: dict[str, Any] = field(default_factory=dict)
    """Options of SearchConfig, for the beam search that `bleu` needs."""

    label_smoothing: Probability = 0.1
    """Label smoothing: the probability mass that is spread over the vocabulary."""

    max_steps: Annotated[int | None, at_least(1)] = 500
    """Maximum number of training steps of each run; null for no limit other than `max_minutes`."""

    max_minutes: Annotated[float | None, POSITIVE] = None
    """Maximum minutes of training and validation of each run, including those before an
    interruption; null for no limit. If `max_steps` is given too, a run ends at whichever limit it
    reaches first. Results under a time limit depend on the speed of the machine."""

    max_tokens: PositiveInt = 1024
    """Maximum number of tokens on each side of a batch."""

    precision: Precision = "32-true"
    """Numeric precision, as in `Trainer(precision=...)`."""

    validate_every: PositiveInt = 100
    """Number of training steps between validations. Each validation also writes a checkpoint."""

    bleu: bool = False
    """Translate the test split and compute its BLEU."""

    average: PositiveInt = 1
    """Number of last checkpoints to average before BLEU is computed. Each validation writes one."""

    sensitivity: bool = False
    """Also validate before the first training step, to report the sensitivity to the learning rate.
    Training itself does not change."""

    ramp: bool = False
    """Increase the learning rate of each run linearly from 0 to the grid's value over all training
    steps, and report the largest stable learning rate (the protocol of the KEEL paper)."""

    studies: list[Literal["dependency", "output-change"]] = field(default_factory=list)
    """Studies to include in the report. They measure the grid's styles at initialization, with the
    grid's seeds and the embedded corpus; see `admin-init study`."""

    monitor_every: NonNegativeInt = 0
    """Number of training steps between measurements of StabilityMonitor, which are logged to
    TensorBoard; 0 for no measurements."""

    share: str = "1/1"
    """Part of the grid that this computer trains: `2/3` is every third run, starting with the
    second. `admin-init merge` combines the results of several computers."""

    workers: PositiveInt = 1
    """Number of runs trained at the same time, each in its own process."""

    threads: PositiveInt = 1
    """Number of CPU threads of each process."""

    criteria: Criteria = field(default_factory=Criteria)
    """Criteria by which a run counts as failed."""

    def __post_init__(self) -> None:
        problems = type_problems(type(self), vars(self))
        if self.max_minutes is None and self.max_steps is None:
            problems.append("`max_steps` or `max_minutes` must be given, but both are null.")
        if self.ramp and self.max_steps is None:
            problems.append(
                "`ramp` needs `max_steps`, the number of steps over which the learning rate "
                "grows, but `max_steps` is null."
            )
        share = self.share.split("/")
        if len(share) != 2 or not all(map(str.isdecimal, share)) or not _is_share(*share):
            problems.append(f"`share` must be of the form `2/3`, but is {self.share!r}.")
        problems += self._problems_of_the_grid()
        if problems:
            raise AdminInitError(" ".join(problems))

    def _problems_of_the_grid(self) -> list[str]:
        variants = self.grid.variants()
        names = [variant.name for variant in variants]
        problems = []
        if not names:
            problems.append("`grid` must give at least one run, but one of its lists is empty.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            problems.append(f"`grid` must give every run once, but gives {twice} several times.")
        single_stack = [variant.depth for variant in variants if 0 in variant.layers]
        if self.bleu and single_stack:
            problems.append(
                "`bleu` needs an encoder and a decoder, because beam search uses both, but `depth` "
                f"is {single_stack[0]!r}. Set `bleu` to false."
            )
        return problems

    def variants(self) -> list[Variant]:
        """List the runs of this computer's part of the grid."""
        first, step = map(int, self.share.split("/"))
        return self.grid.variants()[first - 1 :: step]

    def of(self, variant: Variant) -> Comparison:
        """Return the settings of one run: the shared ones, updated by the values of its axes."""
        point: dict[str, Any] = {
            name: None if value is None else [value] for name, value in variant.axes.items()
        }
        own = replace(self, grid=replace(self.grid, **point), share="1/1")
        for name, value in variant.others.items():
            own = replace(own, **AXES[name].replaced(vars(own), value))
        return own


def _is_share(first: str, step: str) -> bool:
    return 1 <= int(first) <= int(step)


T = TypeVar("T")

SETTINGS = "comparison.json"

# Settings that do not affect the training of a run, so that they may change when a comparison is
# repeated.
_CHANGEABLE = (
    "title",
    "output",
    "grid",
    "share",
    "workers",
    "threads",
    "monitor_every",
    "criteria",
    "studies",
)


def write_settings(comparison: Comparison, entropy: float) -> None:
    """Write the settings, and the unigram entropy (nats) by which the runs are judged."""
    write_checked(Path(comparison.output) / SETTINGS, _values(comparison) | {"entropy": entropy})


def read_settings(folder: Path) -> tuple[Comparison, float]:
    """Read what :func:`write_settings` wrote.

    Raises:
        AdminInitError: The folder holds no comparison, or one of an earlier version, or the file is
            damaged or was edited.
    """
    if not (folder / SETTINGS).exists():
        raise AdminInitError(f"{folder} holds no comparison: it has no {SETTINGS}.")
    if _read(folder, dict).get("entropy") is None:
        raise AdminInitError(
            f"{folder / SETTINGS} was written by an earlier version. Run the comparison again with "
            "this `output`; finished runs are not trained again."
        )
    return _read(folder, _settings)


def _settings(values: dict[str, Any]) -> tuple[Comparison, float]:
    entropy = values.pop("entropy")
    if type(entropy) not in (int, float) or not 0 < entropy < math.inf:
        raise AdminInitError(f"`entropy` must be a positive number, but is {entropy!r}.")
    missing = [name for name in ("corpus", "grid") if name not in values]
    if missing:
        raise AdminInitError(f"`{'` and `'.join(missing)}` is missing.")
    return from_json(Comparison, values), entropy


def _read(folder: Path, build: Callable[[dict[str, Any]], T]) -> T:
    try:
        return read_checked(folder / SETTINGS, build)
    except AdminInitError as error:
        raise AdminInitError(
            f"{error} Remove the file, and run the comparison again with the settings that its "
            "runs were trained with; finished runs are not trained again."
        ) from error


def check_unchanged(comparison: Comparison) -> None:
    """Check that the output folder holds no runs with other settings.

    Raises:
        AdminInitError: It does (the message lists the changes), or the file is damaged or was
            edited.
    """
    output = Path(comparison.output)
    if not (output / SETTINGS).exists():
        return
    changed = differences(_values(Comparison()) | _read(output, dict), comparison)
    if changed:
        raise AdminInitError(
            f"{output} holds runs with other settings: "
            + "; ".join(f"`{key}` was {a} and is now {b}" for key, (a, b) in changed.items())
            + ". Choose another `output`, or remove that folder."
        )


def differences(before: dict[str, Any], comparison: Comparison) -> dict[str, tuple[Any, Any]]:
    """Return the changed settings that affect the training, as pairs (before, now) by name."""
    values = _values(comparison)
    return {
        key: (before[key], values[key])
        for key in values
        if key not in _CHANGEABLE and before[key] != values[key]
    }


def _values(comparison: Comparison) -> dict[str, Any]:
    # As they are read back from JSON, where a tuple becomes a list.
    values: dict[str, Any] = json.loads(json.dumps(asdict(comparison)))
    return values
