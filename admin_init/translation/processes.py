"""Work that is spread over processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from admin_init.errors import AdminInitError

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(job: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Runs a job on every task, in whatever order they finish.

    Tasks are taken from the iterator when somebody is free for them, so that few are in memory.

    Args:
        job: What is done. With several workers each gets a copy, and keeps it from task to task.
        tasks: What it is done to.
        workers: How many processes; with one it is this process.

    Raises:
        AdminInitError: The system ended a worker.
    """
    if workers == 1:
        yield from map(job, tasks)
        return
    # Spawned, because a forked child inherits the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_enter, initargs=(job,)) as pool:
        waiting: set[Future[Result]] = set()
        try:
            for task in tasks:
                waiting.add(pool.submit(_work, task))
                if len(waiting) > workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(waiting))
        except BrokenProcessPool as error:
            raise AdminInitError(
                "A worker process was ended from outside, perhaps because memory ran out. Repeat "
                "the command with fewer workers; it goes on where it was."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_job: Callable[[Any], Any]


def _enter(job: Callable[[Any], Any]) -> None:
    global _job  # noqa: PLW0603, a pool hands its tasks to functions of a module
    _job = job
    # Who presses Ctrl-C does not want to read what every worker was doing.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def _work(task: Any) -> Any:
    return _job(task)


def end_with_parent() -> None:
    """Let this process end when its parent does, however that ended.

    Who repeats a command must find nobody else at work.
    """
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _outlive_nobody() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
