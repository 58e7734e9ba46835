"""Work that is spread over processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from admin_init.errors import AdminInitError

Task = TypeVar("Task")
Result = TypeVar("Result")
P = ParamSpec("P")


def imap_unordered(
    job: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    """Run a job on every task, in whatever order they finish.

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
    with Processes(workers, _enter, (job,), preload=job.__module__) as pool:
        waiting: set[Future[Result]] = set()
        for task in tasks:
            waiting.add(pool.submit(_work, task))
            if len(waiting) > workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(waiting))


_job: Callable[[Any], Any]


def _enter(job: Callable[[Any], Any]) -> None:
    global _job  # noqa: PLW0603, a pool hands its tasks to functions of a module
    _job = job


def _work(task: Any) -> Any:
    return _job(task)


class Processes(ThreadPoolExecutor):
    """An executor of processes, each of which a thread waits for.

    ``ProcessPoolExecutor`` does not say which process died, nor of what, and an exception that
    leaves its ``with`` statement waits for all that is running. Here the death of a process is an
    error of its own task, and the end of the ``with`` statement is the end of all processes.

    Args:
        workers: How many processes there are at a time.
        initializer: Called in each process before its tasks.
        initargs: What it is called with.
        fresh: Whether every task gets a new process.
        preload: Module that the processes find imported, if no process was started before.
        on_report: Called, in a thread of this process, with what a task gives to :func:`report`.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., object],
        initargs: tuple[Any, ...],
        *,
        fresh: bool = False,
        preload: str | None = None,
        on_report: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(workers)
        self._enter = initializer, initargs
        self._fresh = fresh
        self._on_report = on_report
        self._ending = False
        self._running: set[_Worker] = set()
        self._own = threading.local()  # each thread's worker
        if preload is not None:
            _CONTEXT.set_forkserver_preload([preload])

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Schedule a call in one of the processes.

        Its future raises an :class:`AdminInitError` where the process died.
        """
        return super().submit(self._call, (fn, args, kwargs))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown(wait=False, cancel_futures=True)
        self._ending = True
        for worker in list(self._running):
            worker.kill()
        self.shutdown()

    def _call(self, call: tuple[Any, ...]) -> Any:
        worker = getattr(self._own, "worker", None)
        calls = [call] if worker else [(*self._enter, {}), call]
        worker = self._own.worker = worker or _Worker()
        self._running.add(worker)
        if self._ending:  # and who kills them may have looked before
            worker.kill()
        kept = False
        try:
            *_, value = [worker.call(each, self._on_report) for each in calls]
            kept = not self._fresh
        finally:
            if not kept:
                if not self._ending:
                    worker.end()
                worker.kill()
                self._running.discard(worker)
                self._own.worker = None
        return value


# Forked from a server, not from this process, whose threads may hold locks: a child would inherit
# them. The server imports once for all, which takes seconds.
_CONTEXT = multiprocessing.get_context("forkserver")

# An exit code can be read once, and the start of a process reads those of all that have ended.
_EXIT_CODES = threading.Lock()


class _Worker:
    """A process that answers one call after another."""

    def __init__(self) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        # Not with what it will do, which may import for seconds, and that before it can notice
        # that its parent has died.
        self._process = _CONTEXT.Process(target=_serve, args=(theirs,))
        # The child inherits it: Ctrl-C reaches all the group, and is for the parent to answer.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _EXIT_CODES:
                self._process.start()
        except (EOFError, OSError) as error:
            raise AdminInitError(
                "The process that starts the workers has died, perhaps because memory ran out. "
                "Repeat the command; it goes on where it was."
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def call(self, call: tuple[Any, ...], on_report: Callable[[Any], object] | None) -> Any:
        """Have a call made, and return or raise what it does."""
        kind, value = "call", call
        while True:
            try:
                if kind == "call":
                    self._connection.send(value)
                kind, value = self._connection.recv()
            except (EOFError, OSError) as error:
                raise AdminInitError(self._death()) from error
            if kind == "result":
                return value
            if kind == "error":
                raise value
            if on_report is not None:
                on_report(value)

    def end(self) -> None:
        """Let a process that has answered end by itself, and give back what it holds."""
        self._connection.close()
        self._join(10)

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._join()

    def _join(self, seconds: float | None = None) -> int:
        wait_for_any([self._process.sentinel], seconds)
        with _EXIT_CODES:
            return self._process.exitcode or 0

    def _death(self) -> str:
        code = self._join()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"over, with code {code}"
        if -code == signal.SIGKILL:
            how += ", perhaps because memory ran out"
        return (
            f"The worker process {self._process.pid} was {how}. Repeat the command, with fewer "
            "workers if memory is short; it goes on where it was."
        )


_parent: Connection[Any, Any]


def report(value: Any) -> None:
    """Send a value from a task of :class:`Processes` to the process that waits for it."""
    _parent.send(("report", value))


def _serve(connection: Connection[Any, Any]) -> None:
    global _parent  # noqa: PLW0603, tasks report from wherever they are
    _parent = connection
    end_with_parent()
    while True:
        try:
            fn, args, kwargs = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[str, Any]
        try:
            answer = "result", fn(*args, **kwargs)
        except SystemExit:
            # What Lightning makes of SIGTERM, once an update has ended.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:  # it is raised where the result is waited for
            answer = "error", ExceptionWithTraceback(error, error.__traceback__)
        try:
            connection.send(answer)
        except OSError:
            return
        except Exception as error:  # the result, or the error, cannot be pickled
            connection.send(("error", RuntimeError(f"{answer[1]} cannot be sent: {error}")))


def end_with_parent() -> None:
    """Let this process end when its parent does, however that ended.

    A repeated command must never race an orphan of the one before.
    """
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    else:
        number = os.getppid()
        while os.getppid() == number:
            time.sleep(0.2)
    os._exit(1)
