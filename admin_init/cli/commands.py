"""What each of our own commands does; :mod:`admin_init.cli.main` says how they are called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from admin_init._utils.output import results, say
from admin_init._utils.validation import check_numbers
from admin_init.errors import AdminInitError

if TYPE_CHECKING:
    # The types of the options: jsonargparse imports all of this for every command, so no more.
    from admin_init.adapters.patterns import SitePattern
    from admin_init.omega import Rule
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


def profile(
    recipe: str | None = None,
    output: str | None = None,
    batches: int = 1,
    rule: Rule = "reference",
    model: str | None = None,
    sites: list[SitePattern] | None = None,
    batch: str | None = None,
) -> int:
    """Profile the model of a recipe on its first batches; or say what Admin finds in a model.

    Args:
        recipe: A YAML file that `admin-init fit` takes; its model is drawn with its seed.
        output: JSON file that is written, for `AdminInit(profile=...)`.
        batches: Number of a recipe's batches to average over.
        rule: How omegas follow from the variances.
        model: In place of a recipe, what builds a model, as `my.module:build`: shows which residual
            connections are found in it, in which order, and why others are not.
        sites: Names the residual connections of that model, as `AdminInit(sites=...)`.
        batch: What that model is profiled on, as `my.module:batch`, if there is an output.
    """
    if model is not None and recipe is None:
        return _profile_model(model, sites, batch, output, rule)
    if model is not None or sites is not None or recipe is None or output is None:
        raise AdminInitError(
            "either `--recipe FILE --output FILE`, to profile the model of a recipe, or `--model "
            "MODULE:BUILD` (and `--sites`), to see what Admin finds in a model, is needed."
        )
    return _profile_recipe(recipe, output, batches, rule)


def _profile_model(
    build: str,
    patterns: list[SitePattern] | None,
    batch: str | None,
    output: str | None,
    rule: Rule,
) -> int:
    from rich.console import Console

    from admin_init.adapters.survey import survey
    from admin_init.cli.model_loading import batch_for, built
    from admin_init.profiling import profile as take_profile

    model = built(build)
    found = survey(model, patterns)
    if found.sites:
        Console(file=results()).print(found.table(), highlight=False)
    for reason in found.others.values():
        say(f"not served: {reason}")
    if found.problem is not None:
        raise AdminInitError(found.problem)
    if output is not None:
        given = batch_for(model, batch)
        measured = take_profile(model, [given], rule=rule, sites=found.sites)
        measured.save(output)
        say(str(measured))
    return 0


def _profile_recipe(recipe: str, output: str, batches: int, rule: Rule) -> int:
    from admin_init.profiling import profile as take_profile
    from admin_init.translation.recipe_cli import recipe_cli

    check_numbers(1, batches=batches)
    usage = {"usage": "admin-init profile --recipe FILE --output FILE [--OPTION VALUE ...]"}
    built = recipe_cli(["--config", recipe], run=False, parser_settings=usage)
    built.model.attach(built.datamodule)
    loader = islice(iter(built.datamodule.train_dataloader()), batches)
    found = take_profile(
        built.model,
        loader,
        forward=lambda model, batch: model(batch.source, batch.target_input),
        rule=rule,
    )
    found.save(output)
    say(str(found))
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
    return _report(comparison, lab.compare(comparison))


def merge(folders: Sequence[str], output: str) -> int:
    """Unite what several computers have done of one comparison, and write its report.

    Args:
        folders: The folders that `admin-init compare` wrote, with `--share 1/2` and `--share 2/2`.
        output: Folder that is written.
    """
    from admin_init.lab.comparison import merge as lab

    return _report(*lab.merge(folders, output))


def study(name: str, **settings: Any) -> int:
    """Measure residual styles in the small: draw, and say what is found.

    Args:
        name: Which study.
        settings: Its options.
    """
    from rich.console import Console

    from admin_init.lab import studies

    findings = studies.STUDIES[name](**settings)
    console = Console(file=results())
    console.print(findings.table())
    for sentence in findings.sentences:
        console.print(sentence, highlight=False, markup=False)
    for path in findings.save(settings["output"]):
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


def fold(
    checkpoint: str,
    output: str,
    model: str | None = None,
    sites: list[SitePattern] | None = None,
    batch: str | None = None,
) -> int:
    """Fold the omegas of a checkpoint into its weights: a plain Post-LN model, same outputs.

    Args:
        checkpoint: Of a model that was trained with AdminInit.
        output: Checkpoint that is written, or only its weights if it ends in `.safetensors`.
        model: What builds the model, as `my.module:Net`; not needed for one of our recipes.
        sites: What `AdminInit(sites=...)` was given.
        batch: What the model is run on, before and after, as `my.module:batch`; by default a
            LightningModule's `example_input_array`.
    """
    if model is None:
        from admin_init.translation.checkpoint import fold_checkpoint

        difference = fold_checkpoint(checkpoint, output)
    else:
        from functools import partial

        from admin_init.cli.model_loading import batch_for, restored
        from admin_init.folding import write_folded
        from admin_init.profiling import call_model

        module, found, content = restored(model, checkpoint, sites)
        run = partial(call_model, module, batch_for(module, batch))
        difference = write_folded(module, content, output, run, sites=found)
    say(f"{output}: outputs differ by at most {difference:.1e}")
    return 0


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
