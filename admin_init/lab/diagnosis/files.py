"""Diagnosis of the model of a recipe, written to files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from admin_init._utils.atomic_files import write_bytes, write_json
from admin_init._utils.validation import PositiveFloat, PositiveInt, type_problems
from admin_init.errors import AdminInitError, require_extra
from admin_init.lab.diagnosis.diagnosis import mean_diagnosis
from admin_init.lab.diagnosis.measured import DELTAS, diagnose_module
from admin_init.lab.diagnosis.ramp import largest_stable_rate
from admin_init.lab.diagnosis.subject import load_subject
from admin_init.lab.diagnosis.views import (
    diagnosis_figure,
    model_table,
    ramp_sentence,
    sublayer_table,
)
from admin_init.lab.plotting import png

FILES = ("diagnosis.json", "diagnosis.png")
"""Files that :func:`write_diagnosis` writes."""


def write_diagnosis(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    batches: PositiveInt = 1,
    deltas: Sequence[PositiveFloat] = DELTAS,
    seed: int | None = None,
    ramp_steps: PositiveInt | None = None,
    usage: str | None = None,
) -> list[RenderableType]:
    """Diagnose the model of a recipe or a checkpoint, and write :data:`FILES`.

    Args:
        recipe: YAML file for ``admin-init fit``.
        output: Output folder.
        checkpoint: Checkpoint of a model trained with the recipe; None for a new model.
        batches: Number of training batches to average over.
        deltas: Sizes of the weight perturbations at which the output change is measured.
        seed: Seed of the weights, instead of the recipe's, and of the signs of the perturbations.
        ramp_steps: Number of updates of a ramp to find the largest stable learning rate; None for
            no ramp.
        usage: Usage line for errors in the recipe.

    Returns:
        The findings as sentences and tables, for a terminal.

    Raises:
        AdminInitError: An argument is out of range; see also
            :func:`admin_init.lab.diagnosis.subject.load_subject`.
        MissingExtraError: The extra ``lab`` is not installed.
    """
    require_extra("lab")
    problems = type_problems(write_diagnosis, locals())
    if Path(output).exists() and not Path(output).is_dir():
        problems.append(f"`output` must be a folder, but {output} is a file.")
    if problems:
        raise AdminInitError("\n".join(problems))
    subject = load_subject(recipe, checkpoint=checkpoint, batches=batches, seed=seed, usage=usage)
    diagnosis = mean_diagnosis(
        [
            diagnose_module(subject.module, batch, deltas=deltas, seed=seed or 0)
            for batch in subject.batches
        ]
    )
    ramp = None
    if ramp_steps is not None:
        ramp = largest_stable_rate(subject.module, subject.loader, steps=ramp_steps)
    values = {
        "model": subject.origin,
        "batches": batches,
        **diagnosis.to_dict(),
        "ramp": None if ramp is None else ramp.to_dict(),
    }
    image = png(diagnosis_figure(diagnosis, ramp))
    numbers, picture = (Path(output) / name for name in FILES)
    write_json(numbers, values)
    write_bytes(picture, image)
    shown: list[RenderableType] = [
        f"{diagnosis.residual}, {diagnosis.layers} layers: {subject.origin}.",
        sublayer_table(diagnosis),
        model_table(diagnosis, ramp),
    ]
    return [*shown, ramp_sentence(ramp)] if ramp is not None else shown
