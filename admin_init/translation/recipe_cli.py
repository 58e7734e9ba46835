"""Command-line interface for recipes, which are YAML files for LightningCLI."""

from __future__ import annotations

import os
import signal
import subprocess
from argparse import ArgumentError
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from admin_init._utils.checkpoints import read_checkpoint
from admin_init._utils.option_parser import OptionParser
from admin_init._utils.output import results, say
from admin_init._utils.processes import end_with_parent
from admin_init._utils.progress import has_bars
from admin_init._utils.validation import Seed, check
from admin_init.callbacks.atomic_checkpoint_io import WholeCheckpointIO
from admin_init.callbacks.divergence import DivergenceCheck
from admin_init.callbacks.fit_log import FitLog
from admin_init.callbacks.interruption import SaveWhenInterrupted
from admin_init.errors import AdminInitError, OptionError, require_extra
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule, gather_from_ranks

_SECTIONS = ("transformer", "optimization", "search", "fairseq")
_CALLS = {"class_path", "init_args", "dict_kwargs", "_class_path"}


class RecipeParser(OptionParser, LightningArgumentParser):
    """Parser of LightningCLI with the suggestions of the other commands' parsers."""

    @override
    def add_method_arguments(self, *args: Any, **settings: Any) -> list[str]:
        # Not in a group: its heading would be half a sentence of the Trainer's docstring.
        added: list[str] = super().add_method_arguments(*args, **settings, as_group=False)
        return added


_FOUND = ("best", "last", "hpc")
"""Values of `ckpt_path` for which the Trainer finds the file itself."""

_GIVE = "Give one as `--ckpt_path FILE`."


class RecipeCLI(LightningCLI):
    """LightningCLI with one-line errors, and with results on standard output."""

    def __init__(self, arguments: list[str], **settings: Any) -> None:
        self._arguments = arguments
        super().__init__(args=arguments, **settings)

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """List only the requested method: building the parsers of all four takes much longer."""
        every = super().subcommands()
        return {name: every[name] for name in every if name in self._arguments} or every

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(DivergenceCheck, "divergence")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        with redirect_stdout(results()):  # for --help
            super().parse_arguments(parser, args)
        require_extra("translation")
        settings = _method_settings(self.config)
        for name in ("trainer", "model", "data"):
            if not isinstance(settings.get(name), Namespace):
                given = settings.get(name)
                raise AdminInitError(f"`{name}` must be a mapping of options, but is {given}.")
        self._search = settings.model.search
        check({"seed_everything": Seed}, settings)
        if method := self.config.get("subcommand"):
            _check_checkpoint(method, settings.ckpt_path)

    @override
    def before_instantiate_classes(self) -> None:
        # By now Lightning has replaced all model settings by those of the checkpoint. That is right
        # for shape and optimizer, but the search may be changed.
        _method_settings(self.config).model.search = self._search

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise AdminInitError(f"the recipe cannot be built: {error}") from error
        if self.subcommand:
            self._find_checkpoint(self.config_init[self.subcommand])
        strategy = self.trainer.strategy
        # A plugin that the recipe has chosen is kept.
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = WholeCheckpointIO()
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not has_bars():
            callbacks.append(FitLog())
        if self.config.get("subcommand") == "fit":
            callbacks.append(SaveWhenInterrupted(["admin-init", *self._arguments]))

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if "LOCAL_RANK" in os.environ:
            end_with_parent()
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, ConnectionError, EOFError) as error:
            lost = _lost_process(error, self.trainer)
            if lost is None:
                raise
            raise AdminInitError(
                f"{lost} Repeat the command; `--ckpt_path FILE` resumes from a checkpoint."
            ) from error

    def _find_checkpoint(self, settings: Namespace) -> None:
        if settings.ckpt_path not in _FOUND:
            return
        find = self.trainer._checkpoint_connector._parse_ckpt_path
        method = TrainerFn(self.subcommand)
        try:
            found = find(method, settings.ckpt_path, model_provided=True, model_connected=False)
        except ValueError as error:
            raise AdminInitError(f"{error} {_GIVE}") from error
        # Fitting may resume from a last checkpoint that does not exist yet.
        if found is None and method is not TrainerFn.FITTING:
            raise AdminInitError(f"the run of this recipe has no checkpoint. {_GIVE}")
        settings.ckpt_path = found

    def validate(self, **options: Any) -> None:
        """Validate, and print the metrics."""
        self._print_metrics(self.trainer.validate, **options)

    def test(self, **options: Any) -> None:
        """Test, and print the metrics."""
        self._print_metrics(self.trainer.test, **options)

    def _print_metrics(self, evaluate: Any, *, verbose: bool, **options: Any) -> None:
        # Lightning prints its own table to the stream of the progress bars.
        (metrics,) = evaluate(verbose=False, **options)
        if verbose and self.trainer.is_global_zero:
            table = Table("metric", "value")
            for name, value in sorted(metrics.items()):
                table.add_row(name, f"{value:.6g}")
            Console(file=results()).print(table)

    def predict(self, **options: Any) -> None:
        """Predict, and print the translations of all ranks, in the order of the split."""
        if isinstance(self.trainer.strategy.launcher, _MultiProcessingLauncher):
            raise AdminInitError(
                "the processes of this strategy do not return translations. Use "
                "`--trainer.strategy ddp`, or one device."
            )
        batches: Any = self.trainer.predict(**options) or []
        found = gather_from_ranks(dict(pair for batch in batches for pair in batch))
        if self.trainer.is_global_zero:
            for _, translation in sorted(found.items()):
                say(translation)


def _check_checkpoint(method: str, given: Any) -> None:
    """Check the given checkpoint before anything is built; one of `_FOUND` is checked later."""
    if given is None and method == "fit":
        return
    if not given:
        raise AdminInitError(f"{method} needs the weights of a checkpoint. {_GIVE}")
    # A folder is a sharded checkpoint of several ranks.
    if given not in _FOUND and not Path(given).is_dir() and "://" not in given:
        # Lightning gives them to the parser, which imports and calls the value of a `class_path`.
        parameters = read_checkpoint(given).get("hyper_parameters", {})
        if not (
            isinstance(parameters, Mapping)
            and _is_plain(parameters)
            and all(isinstance(parameters.get(name), Mapping | None) for name in _SECTIONS)
        ):
            raise AdminInitError(
                f"{given} has hyper-parameters that are not the plain values of a translation "
                "model: loading them could import, call or open something. Nothing was run."
            )


def _is_plain(value: Any) -> bool:
    """Return whether the parser takes a value literally: nothing in it is imported or called."""
    match value:
        case Mapping():
            names = all(isinstance(name, str) and name.isidentifier() for name in value)
            return names and not _CALLS & value.keys() and all(map(_is_plain, value.values()))
        case list() | tuple():
            return all(map(_is_plain, value))
        case str():
            # For an untyped option the parser reads a string as YAML; a colon makes it a mapping.
            return ":" not in value
    return True


def _lost_process(error: Exception, trainer: Any) -> str | None:
    """Name the process whose death caused ``error``; return None if there is another cause."""
    if not isinstance(error, RuntimeError):
        # A loader process may die after it announced a batch and before the batch was fetched.
        try:
            torch._C._error_if_any_worker_fails()
        except RuntimeError as failure:
            error = failure
    text = str(error).partition("DataLoader worker")
    if text[1]:
        return f"A {text[1]} {text[2].strip().partition('. ')[0].rstrip('.')}."
    for process in getattr(trainer.strategy.launcher, "procs", []):
        # The error may arrive before the process has ended.
        with suppress(AttributeError, subprocess.TimeoutExpired):
            if code := process.wait(2):
                signal_name = signal.Signals(-code).name if code < 0 else None
                how = f"was ended by {signal_name}" if signal_name else f"ended with code {code}"
                trainer.strategy.launcher.kill(signal.SIGKILL)
                return f"The training process {process.pid} {how}."
    return None


def _method_settings(config: Any) -> Any:
    return config[config.subcommand] if config.get("subcommand") else config


def recipe_cli(
    arguments: list[str], *, run: bool = True, parser_settings: dict[str, Any] | None = None
) -> RecipeCLI:
    """Build model, data and trainer of a recipe, and run one of the trainer's methods.

    Args:
        arguments: Command-line arguments that begin with the method, such as
            ``["fit", "--config", "fit.yaml"]``. If ``run`` is False, they have no method.
        run: Whether to run the method; if not, everything is only built.
        parser_settings: Further settings of the parser, or of a method's parser by its name.

    Returns:
        The command-line interface, with ``model``, ``datamodule`` and ``trainer``.

    Raises:
        AdminInitError: The arguments cannot be parsed; model, data or trainer cannot be built from
            them; or the checkpoint cannot be read.
    """
    settings = {"exit_on_error": False} | (parser_settings or {})
    try:
        return RecipeCLI(
            arguments,
            model_class=TranslationModule,
            datamodule_class=TranslationDataModule,
            run=run,
            parser_kwargs=settings,
            parser_class=RecipeParser,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
        )
    except ArgumentError as error:
        raise OptionError(error, arguments) from error
