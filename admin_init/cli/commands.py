"""Commands that are not LightningCLI's; :mod:`admin_init.cli.main` says how they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from admin_init._utils.output import results, say
from admin_init.errors import AdminInitError, require_extra

if TYPE_CHECKING:
    # The types of the options: jsonargparse imports all of this for every command, so no more.
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
        destination: The folder that is written. A run that was killed goes on when it is repeated.
        corpus: What is prepared.
        workers: Processes that share the work.
        shard_size: Pairs that a process works on at once, and has in memory.
        overwrite: Replace a folder that was prepared otherwise.
        settings: The fields of `PrepareConfig`.
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
    """Measure how stable the model of a recipe or a checkpoint is, sub-layer by sub-layer.

    Args:
        recipe: A YAML file that `admin-init fit` takes; measured on its first training batches.
        output: Folder that is written.
        checkpoint: Of a model that the recipe trained; without one, its initialization.
        batches: Number of batches to average over.
        deltas: Changes of the weights at which the output change is measured.
        seed: Of the weights, in place of the recipe's, and of their changes.
        largest_stable_rate: Train on a ramp of the learning rate, to find the largest stable one.
        ramp_steps: Updates of the ramp.
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
    """Train variants of a model side by side, judge each, and write a report."""
    from admin_init.lab.comparison import runner as lab
    from admin_init.lab.comparison.config import Comparison

    comparison = Comparison(**settings)
    if comparison == Comparison():
        raise AdminInitError("a comparison needs a `--config FILE` that says what to compare.")
    return _report(comparison, lab.compare(comparison))


def merge(folders: Sequence[str], output: str) -> int:
    """Unite what several computers have done of one comparison, and write its report.

    Args:
        folders: The folders that `admin-init compare` wrote, with `--share 1/2` and `--share 2/2`.
        output: Folder that is written.
    """
    from admin_init.lab.comparison import merge as lab

    return _report(*lab.merge(folders, output))


def studies() -> Mapping[str, Callable[..., Any]]:
    """Load the studies, by name."""
    from admin_init.lab.studies import STUDIES

    return STUDIES


def study(name: str, **settings: Any) -> int:
    """Measure residual styles in the small: draw, and say what is found.

    Args:
        name: Which study.
        settings: The options of each study, by its name.
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
    """Translate lines on standard input into lines on standard output.

    Args:
        checkpoint: Of a model that `admin-init fit` or `compare` trained.
        data: The prepared folder that it was trained on, if it is not where it was.
        beam_size: Overrules that of the checkpoint.
        length_penalty: Overrules that of the checkpoint.
        too_long: What becomes of a line that is longer than the model's positions: `skip` leaves
            its translation empty, `cut` translates its beginning; without one, translating ends.
    """
    from admin_init._utils.memory import keep_freed_memory
    from admin_init.translation.line_stream import LineStream
    from admin_init.translation.translate import Translator

    if sys.stdin is None:
        raise AdminInitError("standard input, where the lines are to come from, is closed.")

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
        output: Checkpoint that is written.
        checkpoints: What is averaged, in the order of training.
        folder: Or a folder, of whose checkpoints the last are averaged.
        last: How many of the folder, by the updates that they say they are after.
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
    """Turn a checkpoint of fairseq into one of ours, or one of ours into one of fairseq.

    Args:
        checkpoint: A .pt that fairseq-train wrote, or a checkpoint that `admin-init fit` wrote.
        output: Checkpoint that is written.
    """
    from admin_init.fairseq.convert import convert_checkpoint

    say(f"{output}: {convert_checkpoint(checkpoint, output)}")
    return 0
