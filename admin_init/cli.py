"""The command line, ``admin-init``."""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings
from rich.console import Console

from admin_init.errors import AdminInitError
from admin_init.omega import Rule
from admin_init.translation.sources import CorpusConfig

if TYPE_CHECKING:
    from admin_init.lab.compare import Outcome
    from admin_init.lab.comparison import Comparison

TRAINER_COMMANDS = {
    "fit": "Train a model, as a recipe says.",
    "validate": "Compute the validation NLL of a checkpoint.",
    "test": "Translate the test split with a checkpoint, and score it with sacreBLEU.",
    "predict": "Translate the test split with a checkpoint.",
}
"""What LightningCLI does, by the names of the Trainer's methods."""

_RECIPE = "recipes/multi30k_en_de/fit.yaml"
_CHECKPOINT = "runs/multi30k_en_de/admin_4-4/checkpoints/last.ckpt"  # which that recipe writes


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
    from admin_init.translation import prepare as preparation

    manifest = preparation.prepare(
        corpus.open(),
        destination,
        workers=workers,
        shard_size=shard_size,
        overwrite=overwrite,
        **settings,
    )
    _print(str(manifest))
    return 0


def profile(recipe: str, output: str, batches: int = 1, rule: Rule = "reference") -> int:
    """Profile the model of a recipe on its first training batches, and print the omegas.

    Args:
        recipe: A YAML file that `admin-init fit` takes; its model is drawn with its seed.
        output: JSON file that is written, for `AdminInit(profile=...)`.
        batches: Number of batches to average over.
        rule: How omegas follow from the variances.
    """
    import admin_init
    from admin_init.translation.recipe import recipe_cli

    usage = {"usage": "admin-init profile --recipe FILE --output FILE [--OPTION VALUE ...]"}
    built = recipe_cli(["--config", recipe], run=False, parser_settings=usage)
    # What a trainer would do.
    built.model.data = built.datamodule
    built.model.setup("fit")
    loader = islice(iter(built.datamodule.train_dataloader()), batches)
    found = admin_init.profile(
        built.model,
        loader,
        forward=lambda model, batch: model(batch.source, batch.target_input),
        rule=rule,
    )
    found.save(output)
    _print(str(found))
    return 0


def compare(**settings: Any) -> int:
    """Train variants of a model side by side, judge each, and write a report."""
    from admin_init.lab import compare as lab
    from admin_init.lab.comparison import Comparison

    comparison = Comparison(**settings)
    return _report(comparison, lab.compare(comparison))


def merge(folders: Sequence[str], output: str) -> int:
    """Unite what several computers have done of one comparison, and write its report.

    Args:
        folders: The folders that `admin-init compare` wrote, with `--share 1/2` and `--share 2/2`.
        output: Folder that is written.
    """
    from admin_init.lab import merge as lab

    return _report(*lab.merge(folders, output))


def study(name: str, **settings: Any) -> int:
    """Measure residual styles in the small: draw, and say what is found.

    Args:
        name: Which study.
        settings: Its options.
    """
    from admin_init.lab import studies

    findings = studies.STUDIES[name](**settings)
    console = Console()
    console.print(findings.table())
    for sentence in findings.sentences:
        console.print(sentence, highlight=False, markup=False)
    for path in findings.save(settings["output"]):
        _print(str(path))
    return 0


def _report(comparison: Comparison, outcome: Outcome) -> int:
    from admin_init.lab import report

    report.write_report(comparison, outcome)
    console = Console()
    console.print(report.table(comparison, outcome))
    for sentence in report.sentences(comparison, outcome):
        console.print(sentence, highlight=False, markup=False)
    for run, error in outcome.errors.items():
        sys.stderr.write(f"{run} was stopped by an error:\n{error}")
    for name in ("report.html", "report.png", "results.jsonl"):
        _print(str(Path(comparison.output) / name))
    _print(f"tensorboard --logdir {comparison.output}")
    return 1 if outcome.errors else 0


def translate(
    checkpoint: str,
    data: str | None = None,
    beam_size: int | None = None,
    length_penalty: float | None = None,
) -> int:
    """Translate lines on standard input into lines on standard output.

    Args:
        checkpoint: Of a model that `admin-init fit` or `compare` trained.
        data: The prepared folder that it was trained on, if it is not where it was.
        beam_size: Overrules that of the checkpoint.
        length_penalty: Overrules that of the checkpoint.
    """
    from admin_init.translation.translate import Translator

    translator = Translator(
        checkpoint, data=data, beam_size=beam_size, length_penalty=length_penalty
    )
    for translation in translator(_lines(sys.stdin.buffer)):
        _print(translation)
    return 0


def fold(checkpoint: str, output: str) -> int:
    """Fold the omegas of a checkpoint into its weights: a plain Post-LN model, same outputs.

    Args:
        checkpoint: Of a model that was trained with AdminInit.
        output: Checkpoint that is written.
    """
    from admin_init.translation.checkpoint import fold_checkpoint

    difference = fold_checkpoint(checkpoint, output)
    _print(f"{output}: logits differ by {difference:.1e} of the largest")
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
    from admin_init.translation.averaging import newest_checkpoints, write_average

    if (checkpoints is None) == (folder is None):
        raise AdminInitError("give either `--checkpoints FILE ...` or `--folder FOLDER`.")
    chosen = newest_checkpoints(folder, last) if folder is not None else checkpoints
    for member in write_average(chosen or [], output):
        _print("{name}: epoch {epoch}, update {global_step}".format(**member))
    _print(f"{output}: their average")
    return 0


def convert(checkpoint: str, output: str) -> int:
    """Turn a checkpoint of fairseq into one of ours, or one of ours into one of fairseq.

    Args:
        checkpoint: A .pt that fairseq-train wrote, or a checkpoint that `admin-init fit` wrote.
        output: Checkpoint that is written.
    """
    from admin_init.fairseq.convert import convert_checkpoint

    _print(f"{output}: {convert_checkpoint(checkpoint, output)}")
    return 0


class Command(NamedTuple):
    """One of our own commands."""

    run: Callable[..., int]
    """Takes the parsed arguments, returns the exit code."""
    required: tuple[str, ...]
    """What must be given, as the usage line shows it."""
    example: str
    """A command line that works after the ones before it."""


COMMANDS = {
    "prepare": Command(
        prepare,
        ("--destination FOLDER",),
        "admin-init prepare --corpus.kind embedded --destination data-bin/embedded",
    ),
    "profile": Command(
        profile,
        ("--recipe FILE", "--output FILE"),
        f"admin-init profile --recipe {_RECIPE} --output profile.json",
    ),
    "compare": Command(
        compare, ("--config FILE",), "admin-init compare --config recipes/demo/compare.yaml"
    ),
    "merge": Command(
        merge,
        ("--folders FOLDER ...", "--output FOLDER"),
        "admin-init merge --folders runs/demo --output runs/both",
    ),
    "study": Command(
        study,
        ("NAME",),
        "admin-init study dependency --output runs/lab/dependency",
    ),
    "translate": Command(
        translate,
        ("--checkpoint FILE",),
        f"echo 'A man is sleeping.' | admin-init translate --checkpoint {_CHECKPOINT}",
    ),
    "fold": Command(
        fold,
        ("--checkpoint FILE", "--output FILE"),
        f"admin-init fold --checkpoint {_CHECKPOINT} --output folded.ckpt",
    ),
    "average": Command(
        average,
        ("--folder FOLDER", "--output FILE"),
        f"admin-init average --folder {Path(_CHECKPOINT).parent} --output average.ckpt",
    ),
    "convert": Command(
        convert,
        ("--checkpoint FILE", "--output FILE"),
        f"admin-init convert --checkpoint {_CHECKPOINT} --output checkpoint.pt",
    ),
}


_LISTED = {
    "average": ("checkpoints", "FILE", "What is averaged, in the order of training."),
    "merge": ("folders", "FOLDER", "What `admin-init compare` wrote on each computer."),
}
"""Options that take several words, by command."""


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, which end in an example."""


# The options' help is what stands under the fields of the dataclasses.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``admin-init`` with ``argv``, the process's own arguments by default, and exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    try:
        if name in COMMANDS:
            code = _run(name, arguments[1:])
        elif name in TRAINER_COMMANDS:
            code = _run_trainer(arguments)
        else:
            code = _overview(name)
    except BrokenPipeError:
        # Whoever reads our output has read enough, as `head` does; the rest has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except (AdminInitError, OSError) as error:
        sys.stderr.write(f"admin-init {name}: {error}\n")
        code = getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        sys.stderr.write(f"admin-init {name}: interrupted\n")
        code = 128 + signal.SIGINT
    sys.exit(code)


def command_parser(name: str) -> ArgumentParser:
    """Build the parser of one of :data:`COMMANDS`."""
    command = COMMANDS[name]
    purpose = inspect.getdoc(command.run) or ""
    parser = ArgumentParser(
        prog=f"admin-init {name}",
        formatter_class=_Formatter,
        **_help(name, " ".join(command.required), purpose.partition("\n")[0], command.example),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options.")
    if name == "compare":
        from admin_init.lab.comparison import Comparison

        parser.add_class_arguments(Comparison, as_group=False)
    elif name in _LISTED:
        # Or the list would have to be typed as JSON.
        option, metavar, listed = _LISTED[name]
        parser.add_argument(f"--{option}", nargs="+", metavar=metavar, help=listed)
        parser.add_function_arguments(command.run, as_group=False, skip={option})
    elif name == "study":
        from admin_init.lab.studies import STUDIES

        studies = parser.add_subcommands(dest="name", metavar="NAME", title="studies")
        for key, run in STUDIES.items():
            purpose = (inspect.getdoc(run) or "").partition("\n")[0]
            one = ArgumentParser(formatter_class=_Formatter, description=purpose)
            one.add_argument("--config", action="config", help="YAML file with any of the options.")
            one.add_function_arguments(run, as_group=False)
            studies.add_subcommand(key, one, help=purpose)
    else:
        parser.add_function_arguments(command.run, as_group=False)
    return parser


def _run(name: str, arguments: list[str]) -> int:
    if name == "compare" and not arguments:
        raise AdminInitError("a comparison needs a `--config FILE` that says what to compare.")
    parser = command_parser(name)
    settings = parser.instantiate_classes(parser.parse_args(arguments)).as_dict()
    settings.pop("config", None)
    if name == "study":
        settings |= settings.pop(settings["name"])
        settings.pop("config", None)
    return COMMANDS[name].run(**settings)


def _run_trainer(arguments: list[str]) -> int:
    from admin_init.translation.recipe import recipe_cli

    name = arguments[0]
    example = f"admin-init {name} --config {_RECIPE}"
    if name != "fit":
        example += f" --ckpt_path {_CHECKPOINT}"
    required = "--config FILE" if name == "fit" else "--config FILE --ckpt_path FILE"
    settings = {
        "prog": "admin-init",
        "formatter_class": _Formatter,  # which the parser of a method takes over
        name: _help(name, required, TRAINER_COMMANDS[name], example),
    }
    recipe_cli(arguments, parser_settings=settings)
    return 0


def _help(name: str, required: str, purpose: str, example: str) -> dict[str, Any]:
    return {
        "usage": f"admin-init {name} {required} [--OPTION VALUE ...]",
        "description": f"{purpose}\n\nexample:\n  {example}",
    }


def _overview(name: str) -> int:
    purposes = TRAINER_COMMANDS | {
        name: (inspect.getdoc(command.run) or "").partition("\n")[0]
        for name, command in COMMANDS.items()
    }
    order = "prepare compare merge study fit validate test predict profile translate average fold"
    lines = [f"  {key:10} {purposes[key]}" for key in (*order.split(), "convert")]
    text = "\n".join(
        [
            "usage: admin-init COMMAND [--OPTION VALUE ...]",
            "",
            "Train deep Post-LN Transformers with Admin, and see them beside other styles.",
            "",
            "example:",
            "  admin-init compare --config recipes/demo/compare.yaml",
            "",
            "commands (each has a --help):",
            *lines,
        ]
    )
    if name in ("-h", "--help"):
        _print(text)
        return 0
    raise AdminInitError("there is no such command; `admin-init --help` lists them.")


def _lines(stream: BinaryIO) -> Iterator[str]:
    # Not the text stream, whose encoding is that of the user's locale, and which ends lines also
    # where a carriage return stands.
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise AdminInitError(
                f"line {number} of the input is not UTF-8: byte {error.start + 1}, {error.reason}."
            ) from error


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
