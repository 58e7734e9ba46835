"""The result of one run."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from admin_init._utils.atomic_files import read_checked, set_aside
from admin_init._utils.typed_json import from_json
from admin_init.errors import AdminInitError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Variant
from admin_init.lab.comparison.history import Course, loss_spikes
from admin_init.translation.scoring import Bleu

RESULT = "result.json"

_OUTSIDE_HISTORY = ("initial_nll", "seconds")
"""Fields of a course that the file stores next to ``history``; older files, also inside it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run."""

    variant: Variant
    """The point of the grid."""
    trained: bool
    """Whether it trained, by the criteria of the comparison."""
    reason: str
    """The reason for this verdict."""
    val_nll: float
    """Final validation NLL in nats per target token, without label smoothing."""
    source_gain: float
    """Increase of the final NLL when the sources are shuffled."""
    bleu: float | None
    """sacreBLEU on the test split; None if not computed, 0 if the model outputs NaN."""
    bleu_signature: str | None
    """sacreBLEU's signature, which states how the score was computed."""
    grad_norm: float
    """Median over the updates of the 2-norm of all gradients."""
    history: Course
    """Losses and gradient norms of all updates, and all validations. Only its ``seconds`` change
    when the run is repeated."""

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read the result of a finished run.

        Raises:
            AdminInitError: The file is damaged or was edited, or belongs to another run than its
                folder.
        """

        def build(values: dict[str, Any]) -> Result:
            if isinstance(history := values.get("history"), dict):
                history |= {name: values.pop(name) for name in _OUTSIDE_HISTORY if name in values}
            run = values.pop("run", None)
            variant = Variant.pop_from(values)
            result = from_json(cls, {**values, "variant": asdict(variant)})
            if not result.history.validation:
                raise AdminInitError("its `history` has no validation.")
            for name in (run, variant.name):
                if name != path.parent.name:
                    raise AdminInitError(f"it is the result of {name!r}.")
            return result

        return read_checked(path, build)

    @property
    def updates(self) -> int:
        """Number of updates."""
        return len(self.history.train_loss)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for :meth:`load`, with the axes next to the other fields."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        outside = {name: values["history"].pop(name) for name in _OUTSIDE_HISTORY}
        del values["variant"]
        return {"run": self.variant.name, **self.variant.axes, **outside, **values}

    def row(self) -> dict[str, Any]:
        """Return the values that are the same whenever the run is repeated, for tables."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("history", "seconds")}
        return values | {"updates": self.updates}


def load_or_set_aside(comparison: Comparison, variant: Variant, entropy: float) -> Result | None:
    """Load the result of a variant; rename an unusable file, so that the run is resumed."""
    try:
        return load_result(comparison, variant, entropy)
    except AdminInitError as error:
        aside = set_aside(Path(comparison.output) / variant.name / RESULT)
        sys.stderr.write(f"{error} It was renamed to {aside.name}, and the run is resumed.\n")
        return None


def load_result(comparison: Comparison, variant: Variant, entropy: float) -> Result | None:
    """Load the result of a finished run, judged by the present criteria; None if there is none.

    Raises:
        AdminInitError: See :meth:`Result.load`.
    """
    path = Path(comparison.output) / variant.name / RESULT
    if not path.exists():
        return None
    before = Result.load(path)
    bleu = None if before.bleu is None else Bleu(before.bleu, before.bleu_signature or "")
    return make_result(comparison, variant, before.history, entropy, bleu)


def make_result(
    comparison: Comparison,
    variant: Variant,
    course: Course,
    entropy: float,
    bleu: Bleu | None,
) -> Result:
    """Make the result of a run from its course."""
    last = course.validation[-1]
    nlls = [validation.nll for validation in course.validation]
    verdict = comparison.criteria.judge(nlls, last.source_gain, entropy)
    norms = [norm for norm in course.grad_norm if math.isfinite(norm)]
    return Result(
        variant=variant,
        trained=verdict.trained,
        reason=verdict.reason,
        val_nll=last.nll,
        source_gain=last.source_gain,
        bleu=None if bleu is None else bleu.score,
        bleu_signature=None if bleu is None else bleu.signature,
        grad_norm=statistics.median(norms) if norms else math.nan,
        history=replace(course, spikes=loss_spikes(course.train_loss)),
    )
