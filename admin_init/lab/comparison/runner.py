"""Train all variants of a comparison, several at a time, and collect their results."""

from __future__ import annotations

import queue
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.markup import escape
from rich.progress import Progress

from admin_init._utils.processes import Processes, report
from admin_init._utils.progress import progress as shown_progress
from admin_init.errors import AdminInitError, require_extra
from admin_init.lab.comparison.config import Comparison, check_unchanged, write_settings
from admin_init.lab.comparison.criteria import unigram_entropy
from admin_init.lab.comparison.grid import Variant
from admin_init.lab.comparison.result import Result, load_or_set_aside
from admin_init.lab.comparison.run import build, enter_worker, train
from admin_init.lab.studies.steps import run_studies
from admin_init.translation.data.databin import IndexedDataset
from admin_init.translation.preparation.prepare import prepare

_IMPORTED_LATER = ("omegaconf", "tensorboard.plugins.hparams.api_pb2", "torch.utils.tensorboard")
"""What every run would otherwise import when it logs."""


class Outcome(NamedTuple):
    """Results of a comparison."""

    results: list[Result]
    """Results of the finished runs, in the order of the grid."""
    errors: dict[str, str]
    """Error messages or tracebacks of the other runs, by name."""
    entropy: float
    """Unigram entropy of the training text's target side, nats per token."""


def compare(comparison: Comparison, *, progress: bool = True) -> Outcome:
    """Run a comparison; keep the runs that are finished already, and resume interrupted ones.

    Writes ``data-bin`` to ``comparison.output``, and for each run a folder with TensorBoard events,
    ``last.ckpt`` and ``result.json``. However often the comparison is interrupted, its results are
    the same except for ``seconds``, unless ``max_minutes`` ends the runs.

    Args:
        comparison: Settings of the comparison.
        progress: Show the progress and the verdict of each run.

    Raises:
        AdminInitError: The folder holds runs with other settings, or the corpus cannot be used.
        MissingExtraError: The extra ``lab`` is not installed.
    """
    require_extra("lab")
    output = Path(comparison.output)
    _check_models(comparison)
    check_unchanged(comparison)
    corpus = comparison.corpus.open()
    prepare(
        corpus,
        output / "data-bin",
        vocabulary_size=comparison.vocabulary_size,
        progress=progress,
    )
    languages = f"{corpus.source_lang}-{corpus.target_lang}"
    entropy = _entropy(output / "data-bin" / f"train.{languages}.{corpus.target_lang}")
    write_settings(comparison, entropy)
    variants = comparison.variants()
    results = {
        variant: result
        for variant in variants
        if (result := load_or_set_aside(comparison, variant, entropy)) is not None
    }
    errors: dict[str, str] = {}
    waiting = [variant for variant in variants if variant not in results]
    if waiting:
        with _bars(comparison, waiting, shown=progress) as bars:
            _train_all(comparison, waiting, entropy, bars, results, errors)
    run_studies(comparison)
    done = [results[variant] for variant in variants if variant in results]
    return Outcome(done, errors, entropy)


def _train_all(
    comparison: Comparison,
    variants: list[Variant],
    entropy: float,
    bars: _Bars,
    results: dict[Variant, Result],
    errors: dict[str, str],
) -> None:
    with _executor(comparison) as (executor, updates):
        futures = {
            executor.submit(_train, comparison, variant, entropy): variant for variant in variants
        }
        for future in _as_completed(futures, updates, bars):
            variant = futures[future]
            try:
                results[variant] = future.result()
                bars.finish(variant.name, results[variant])
            except Exception as error:  # one run must not stop the others
                refused = isinstance(error, AdminInitError)
                text = str(error) if refused else "".join(traceback.format_exception(error))
                errors[variant.name] = text
                bars.fail(variant.name, error)


def _check_models(comparison: Comparison) -> None:
    """Build each model once, so that wrong settings are reported before any run starts."""
    for variant in comparison.variants():
        try:
            build(comparison, variant, None)
        except (TypeError, ValueError) as error:
            raise AdminInitError(f"No model can be built for {variant.name}: {error}") from error


def _entropy(prefix: Path) -> float:
    text = IndexedDataset(prefix)
    return unigram_entropy(np.concatenate([text[i].numpy() for i in range(len(text))]))


@contextmanager
def _executor(comparison: Comparison) -> Iterator[tuple[Executor, queue.SimpleQueue[Any]]]:
    """Yield an executor for the runs, and the queue to which they report their progress."""
    updates: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # Fresh processes, so that nothing that a run leaves in memory reaches the next one.
    with Processes(
        comparison.workers,
        enter_worker,
        (comparison.threads,),
        fresh=True,
        preload=(train.__module__, *_IMPORTED_LATER),
        on_report=updates.put,
    ) as executor:
        yield executor, updates


def _train(comparison: Comparison, variant: Variant, entropy: float) -> Result:
    return train(comparison, variant, entropy, lambda done: report((variant.name, done)))


def _as_completed(
    futures: dict[Future[Result], Variant], updates: Any, bars: _Bars
) -> Iterator[Future[Result]]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        try:
            while True:
                bars.update(*updates.get_nowait())
        except queue.Empty:
            pass
        yield from done


class _Bars:
    """Progress bars: one for each run that has started, and one for all runs."""

    def __init__(self, progress: Progress, comparison: Comparison, variants: list[Variant]) -> None:
        self._progress = progress
        self._steps = comparison.max_steps
        self._all = progress.add_task("all runs", total=len(variants))
        self._tasks: dict[str, Any] = {}

    def update(self, run: str, steps: int) -> None:
        if run not in self._tasks:
            self._tasks[run] = self._progress.add_task(run, total=self._steps)
        self._progress.update(self._tasks[run], completed=steps)

    def finish(self, run: str, result: Result) -> None:
        verdict = "[green]trained[/]" if result.trained else "[red]failed[/]"
        self._progress.print(f"{run}: {verdict}, {escape(result.reason)}")
        self._end(run)

    def fail(self, run: str, error: Exception) -> None:
        self._progress.print(f"{run}: [red]stopped by an error[/]: {escape(str(error))}")
        self._end(run)

    def _end(self, run: str) -> None:
        self._progress.advance(self._all)
        if run in self._tasks:
            self._progress.remove_task(self._tasks.pop(run))


@contextmanager
def _bars(comparison: Comparison, variants: list[Variant], *, shown: bool) -> Iterator[_Bars]:
    with shown_progress(shown=shown) as progress:
        yield _Bars(progress, comparison, variants)
