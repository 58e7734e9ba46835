"""Worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Run a job on every task, and yield the results in the order in which they finish.

    Tasks are taken from the iterator when a worker is free, so that only a few are in memory.

    Args:
        job: Function to call. With several workers, each keeps its own copy for all its tasks.
        tasks: Arguments of the calls.
        workers: Number of processes; 1 runs the job in this process.

    Raises:
        AdminInitError: The system ended a worker.
    """
    if workers == 1:
        yield from map(job, tasks)
        return
    with Processes(workers, _enter, (job,), preload=(job.__module__,)) as pool:
        waiting: set[Future[Result]] = set()
        for task in tasks:
            waiting.add(pool.submit(_work, task))
            if len(waiting) > workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(waiting))


_job: Callable[[Any], Any]


def _enter(job: Callable[[Any], Any]) -> None:
    global _job  # noqa: PLW0603, a pool can only call functions of a module
    _job = job


def _work(task: Any) -> Any:
    return _job(task)


class Processes(ThreadPoolExecutor):
    """Executor that runs tasks in processes, with a waiting thread for each process.

    ``ProcessPoolExecutor`` does not tell which process died and why, and its ``with`` statement
    waits for running tasks even after an exception. Here, the death of a process is an error of its
    own task, and the end of the ``with`` statement ends all processes.

    Args:
        workers: Number of processes at a time.
        initializer: Called in each process before its tasks.
        initargs: Arguments of ``initializer``.
        fresh: Start a new process for every task.
        preload: Modules to import before the first process starts, so that all of them have them.
        on_report: Called in a thread of this process with each value that a task passes to
            :func:`report`.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., object],
        initargs: tuple[Any, ...],
        *,
        fresh: bool = False,
        preload: Sequence[str] = (),
        on_report: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(workers)
        self._enter = initializer, initargs
        self._fresh = fresh
        self._on_report = on_report
        self._ending = False
        self._running: set[_Worker] = set()
        self._own = threading.local()  # each thread's worker
        if preload:
            _CONTEXT.set_forkserver_preload(list(preload))

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Schedule a call in one of the processes.

        Returns:
            A future, which raises an :class:`AdminInitError` if the process dies.
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
        if self._ending:  # `__exit__` may have listed the workers before this one
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


# Workers are forked from a server, because the threads of this process may hold locks, which a
# child would inherit. The server also imports once for all, which takes seconds.
_CONTEXT = multiprocessing.get_context("forkserver")

# An exit code can be read once, and the start of a process reads those of all that have ended.
_EXIT_CODES = threading.Lock()


class _Worker:
    """A process that runs one call after another."""

    def __init__(self) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        # The calls are sent later: their imports may take seconds, in which the process could not
        # notice that its parent has died.
        self._process = _CONTEXT.Process(target=_serve, args=(theirs,))
        # The child inherits the mask: Ctrl-C reaches the whole group, and the parent handles it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _EXIT_CODES:
                self._process.start()
        except (EOFError, OSError) as error:
            raise AdminInitError(
                "The process that starts the workers has died, perhaps because memory ran out. "
                "Repeat the command; it continues where it stopped."
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def call(self, call: tuple[Any, ...], on_report: Callable[[Any], object] | None) -> Any:
        """Run a call in the process, and return its result or raise its error."""
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
        """Let an idle process end by itself, and release its resources."""
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
            "workers if memory is short; it continues where it stopped."
        )


_parent: Connection[Any, Any]


def report(value: Any) -> None:
    """Send a value from a task of :class:`Processes` to the process that waits for it."""
    _parent.send(("report", value))


def _serve(connection: Connection[Any, Any]) -> None:
    global _parent  # noqa: PLW0603, tasks call `report` from anywhere
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
            # Lightning turns SIGTERM into this, once an update has ended.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:  # raised again by the parent's future
            answer = "error", ExceptionWithTraceback(error, error.__traceback__)
        try:
            connection.send(answer)
        except OSError:
            return
        except Exception as error:  # the result, or the error, cannot be pickled
            connection.send(("error", RuntimeError(f"{answer[1]} cannot be sent: {error}")))


def end_with_parent() -> None:
    """Make this process exit when its parent ends for any reason.

    Otherwise a repeated command could race an orphan of the one before.
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
