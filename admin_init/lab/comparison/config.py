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

    vocabulary_size: PositiveInt = 4000
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

    label_smoothing: Probability = 0.1
    """Probability mass spread over the vocabulary."""

    max_steps: Annotated[int | None, at_least(1)] = 500
    """Updates of each run; null where `max_minutes` alone decides."""

    max_minutes: Annotated[float | None, POSITIVE] = None
    """Minutes of training and validation of each run, also those before an interruption. Whichever
    comes first, ends the run; what comes of minutes depends on the machine."""

    max_tokens: PositiveInt = 1024
    """The most tokens of a side of a batch."""

    precision: Precision = "32-true"
    """Numeric precision, as in `Trainer(precision=...)`."""

    validate_every: PositiveInt = 100
    """Updates between two validations; each also writes a checkpoint."""

    bleu: bool = False
    """Whether to translate and score the test split."""

    average: PositiveInt = 1
    """How many of the last checkpoints, one a validation, are averaged into the model that is
    scored."""

    sensitivity: bool = False
    """Whether to validate before the first update too, which the sensitivity to the learning rate
    is computed from. It changes nothing in the training."""

    ramp: bool = False
    """Whether each run is a ramp: its learning rate grows linearly from 0 to that of the grid over
    all of its updates, and the report says up to which one it was stable (KEEL's protocol)."""

    studies: list[Literal["dependency", "output-change"]] = field(default_factory=list)
    """What is measured of the grid's styles at their initialization, with its seeds on the
    embedded corpus, for the same report; see `admin-init study`."""

    monitor_every: NonNegativeInt = 0
    """Updates between two measurements of StabilityMonitor, which go to TensorBoard; 0 for none."""

    share: str = "1/1"
    """Which of the runs: of `2/3` every third, beginning with the second. Several computers can
    share a grid so; `admin-init merge` unites what they have done."""

    workers: PositiveInt = 1
    """Runs at a time, each in a process of its own."""

    threads: PositiveInt = 1
    """Threads of each process."""

    criteria: Criteria = field(default_factory=Criteria)
    """What counts as failed."""

    def __post_init__(self) -> None:
        problems = type_problems(type(self), vars(self))
        if self.max_minutes is None and self.max_steps is None:
            problems.append("`max_steps` or `max_minutes` must be given, but both are null.")
        if self.ramp and self.max_steps is None:
            problems.append("`ramp` needs `max_steps`, over which it grows, but that is null.")
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
        alone = [variant.depth for variant in variants if 0 in variant.layers]
        if self.bleu and alone:
            problems.append(
                "`bleu` needs an encoder and a decoder, since nothing can search for translations "
                f"without one of them, but `depth` is {alone[0]!r}. Set `bleu` to false."
            )
        return problems

    def variants(self) -> list[Variant]:
        """List the runs of this computer's share of the grid."""
        first, step = map(int, self.share.split("/"))
        return self.grid.variants()[first - 1 :: step]

    def of(self, variant: Variant) -> Comparison:
        """Return the settings of one run: those of all, and in their place what its axes give."""
        point: dict[str, Any] = {
            name: None if value is None else [value] for name, value in variant.axes.items()
        }
        own = replace(self, grid=replace(self.grid, **point), share="1/1")
        for name, value in variant.others.items():
            own = replace(own, **AXES[name].replaced(own, value))
        return own


def _is_share(first: str, step: str) -> bool:
    return 1 <= int(first) <= int(step)


T = TypeVar("T")

SETTINGS = "comparison.json"

# What may change when a comparison is repeated: it decides which runs there are, how they are
# scheduled and what is said of them, not what comes of one.
_FREE = (
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
    """Keep the settings, and the unigram entropy in nats that its runs are judged by."""
    write_checked(Path(comparison.output) / SETTINGS, _values(comparison) | {"entropy": entropy})


def read_settings(folder: Path) -> tuple[Comparison, float]:
    """Read what :func:`write_settings` wrote.

    Raises:
        AdminInitError: The folder is not that of a comparison, or of one before there was this, or
            the file is damaged or was edited.
    """
    if not (folder / SETTINGS).exists():
        raise AdminInitError(f"{folder} holds no comparison: it has no {SETTINGS}.")
    if _read(folder, dict).get("entropy") is None:
        raise AdminInitError(
            f"{folder / SETTINGS} was written by an earlier version. Repeat the comparison there: "
            "no finished run is trained again."
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
            f"{error} Remove the file, and repeat the comparison there, with the settings that its "
            "runs were trained with: no finished run is trained again."
        ) from error


def check_unchanged(comparison: Comparison) -> None:
    """Refuse a folder that holds runs of other settings.

    Raises:
        AdminInitError: It names what was changed, or the file is damaged or was edited.
    """
    output = Path(comparison.output)
    if not (output / SETTINGS).exists():
        return
    changed = differences(_values(Comparison()) | _read(output, dict), comparison)
    if changed:
        raise AdminInitError(
            f"{output} holds runs of other settings: "
            + "; ".join(f"`{key}` was {before}, is {now}" for key, (before, now) in changed.items())
            + ". Choose another `output`, or remove that folder."
        )


def differences(before: dict[str, Any], comparison: Comparison) -> dict[str, tuple[Any, Any]]:
    """Return the settings that decide what comes of a run and differ, as pairs, by name."""
    values = _values(comparison)
    return {
        key: (before[key], values[key])
        for key in values
        if key not in _FREE and before[key] != values[key]
    }


def _values(comparison: Comparison) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(comparison)))
    return values  # as they are read back: a tuple is a list then
