"""Commands that are not LightningCLI's; :mod:`admin_init.cli.main` calls them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from admin_init._utils.output import results, say
from admin_init.errors import AdminInitError, require_extra

if TYPE_CHECKING:
    # Only types of options: jsonargparse imports all of this for every command.
    from admin_init.translation.corpora.config import CorpusConfig


def prepare(
    destination: str,
    corpus: CorpusConfig,
    workers: int = 1,
    shard_size: int = 50_000,
    overwrite: bool = False,
    **settings: Any,
) -> int:
    """Clean a parallel corpus, split it into subwords, and write it as a fairseq data-bin.

    Args:
        destination: Output folder. Repeat an interrupted command to continue it.
        corpus: Corpus to prepare.
        workers: Number of worker processes.
        shard_size: Number of sentence pairs that a process holds in memory at a time.
        overwrite: Replace a folder that was prepared with other settings.
        settings: Fields of `PrepareConfig`.
    """
    from admin_init.translation.preparation import prepare as preparation

    require_extra("translation")  # before anything is downloaded
    manifest = preparation.prepare(
        corpus.open(),
        destination,
        workers=workers,
        shard_size=shard_size,
        overwrite=overwrite,
        **settings,
    )
    say(str(manifest))
    return 0


def diagnose(
    recipe: str,
    output: str,
    checkpoint: str | None = None,
    batches: int = 1,
    deltas: Sequence[float] = (1e-5, 1e-4, 1e-3),
    seed: int | None = None,
    largest_stable_rate: bool = False,
    ramp_steps: int = 200,
) -> int:
    """Measure the stability of a recipe's model or checkpoint, sub-layer by sub-layer.

    Args:
        recipe: YAML file for `admin-init fit`. The model is measured on its first training batches.
        output: Output folder.
        checkpoint: Checkpoint of a model trained with the recipe. By default, the model is measured
            at initialization.
        batches: Number of batches to average over.
        deltas: Sizes of the weight perturbations at which the output change is measured.
        seed: Random seed of the initial weights and the perturbations; the recipe's by default.
        largest_stable_rate: Also train with a linearly increasing learning rate, to find the
            largest stable one.
        ramp_steps: With `--largest_stable_rate`: number of training steps.
    """
    from rich.console import Console

    from admin_init.lab.diagnosis.files import FILES, write_diagnosis

    usage = "admin-init diagnose --recipe FILE --output FOLDER [--OPTION VALUE ...]"
    shown = write_diagnosis(
        recipe,
        output,
        checkpoint=checkpoint,
        batches=batches,
        deltas=deltas,
        seed=seed,
        ramp_steps=ramp_steps if largest_stable_rate else None,
        usage=usage,
    )
    console = Console(file=results())
    for part in shown:
        console.print(part, highlight=False, markup=False)
    for name in FILES:
        say(str(Path(output) / name))
    return 0


def compare(**settings: Any) -> int:
    """Train and evaluate variants of a model, and write a report."""
    from admin_init.lab.comparison import runner as lab
    from admin_init.lab.comparison.config import Comparison

    comparison = Comparison(**settings)
    if comparison == Comparison():
        raise AdminInitError("a comparison needs a `--config FILE` with the variants to compare.")
    return _report(comparison, lab.compare(comparison))


def merge(folders: Sequence[str], output: str) -> int:
    """Merge the results of one comparison from several computers, and write its report.

    Args:
        folders: Output folders of `admin-init compare`, with `--share 1/2` and `--share 2/2`.
        output: Output folder.
    """
    from admin_init.lab.comparison import merge as lab

    return _report(*lab.merge(folders, output))


def studies() -> Mapping[str, Callable[..., Any]]:
    """Return the studies by name."""
    from admin_init.lab.studies import STUDIES

    return STUDIES


def study(name: str, **settings: Any) -> int:
    """Measure residual styles on small models, and write figures and findings.

    Args:
        name: Name of the study.
        settings: Options of each study, by its name.
    """
    from rich.console import Console

    options = {key: value for key, value in settings[name].items() if key != "config"}
    findings = studies()[name](**options)
    console = Console(file=results())
    console.print(findings.table())
    for sentence in findings.sentences:
        console.print(sentence, highlight=False, markup=False)
    for path in findings.save(options["output"]):
        say(str(path))
    return 0


def _report(comparison: Any, outcome: Any) -> int:
    from rich.console import Console

    from admin_init.lab.report import page as report

    report.write_report(comparison, outcome)
    console = Console(file=results())
    console.print(report.table(comparison, outcome))
    for sentence in report.sentences(comparison, outcome):
        console.print(sentence, highlight=False, markup=False)
    for run, error in outcome.errors.items():
        gap = "\n" if "\n" in error else " "
        sys.stderr.write(f"{run} was stopped by an error:{gap}{error.rstrip()}\n")
    for name in ("report.html", "report.png", "results.jsonl"):
        say(str(Path(comparison.output) / name))
    say(f"tensorboard --logdir {comparison.output}")
    return 1 if outcome.errors else 0


def translate(
    checkpoint: str,
    data: str | None = None,
    beam_size: int | None = None,
    length_penalty: float | None = None,
    too_long: Literal["skip", "cut"] | None = None,
) -> int:
    """Translate lines from standard input to standard output.

    Args:
        checkpoint: Checkpoint of a model trained by `admin-init fit` or `compare`.
        data: Prepared folder that the model was trained on; needed only if the folder was moved.
        beam_size: Beam size; the one stored in the checkpoint by default.
        length_penalty: Length penalty; the one stored in the checkpoint by default.
        too_long: Treatment of lines with more tokens than the model's positions: `skip` writes an
            empty translation, `cut` translates the beginning. By default, such a line is an error.
    """
    from admin_init._utils.memory import keep_freed_memory
    from admin_init.translation.line_stream import LineStream
    from admin_init.translation.translate import Translator

    if sys.stdin is None:
        raise AdminInitError("standard input is closed, so there are no lines to translate.")

    def report(problem: str) -> None:
        sys.stderr.write(f"admin-init translate: {problem}\n")

    keep_freed_memory()
    translator = Translator(
        checkpoint,
        data=data,
        beam_size=beam_size,
        length_penalty=length_penalty,
        too_long=too_long,
        report=report,
    )
    stream: Any = sys.stdin.buffer
    lines = LineStream(stream, report)
    for translation in translator.translate_batches(lines):
        say(translation)
    return 2 if lines.undecodable else 0


def average(
    output: str,
    checkpoints: Sequence[str] | None = None,
    folder: str | None = None,
    last: int = 10,
) -> int:
    """Average the weights of the last checkpoints of a run.

    Args:
        output: Output checkpoint.
        checkpoints: Checkpoints to average, in the order of training.
        folder: Instead of `--checkpoints`: folder whose last checkpoints are averaged.
        last: With `--folder`: number of checkpoints to average, those with the most training steps.
    """
    from admin_init._utils.weight_averaging import newest_checkpoints, write_average

    if (checkpoints is None) == (folder is None):
        raise AdminInitError("give either `--checkpoints FILE ...` or `--folder FOLDER`.")
    chosen = newest_checkpoints(folder, last) if folder is not None else checkpoints
    for member in write_average(chosen or [], output):
        say("{name}: epoch {epoch}, update {global_step}".format(**member))
    say(f"{output}: their average")
    return 0


def convert(checkpoint: str, output: str) -> int:
    """Convert a checkpoint from fairseq to Lightning, or from Lightning to fairseq.

    Args:
        checkpoint: A .pt file of fairseq-train, or a checkpoint of `admin-init fit`.
        output: Output checkpoint, in the other format.
    """
    from admin_init.fairseq.convert import convert_checkpoint

    say(f"{output}: {convert_checkpoint(checkpoint, output)}")
    return 0
