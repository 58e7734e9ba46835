"""An engine in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch


class EngineProcess:
    """Builds an engine in a new process, and calls its methods there.

    So the memory, the threads and the settings of one library do not touch another's.

    Args:
        threads: Of the process.
        seed: Of torch in the process.
        build: Builds the engine.
        arguments: What it is called with.
    """

    def __init__(self, threads: int, seed: int, build: Callable[..., Any], *arguments: Any) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_build,
            initargs=(threads, seed, build, arguments),
        )

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Call a method of the engine, and return what it returns."""
        return self._pool.submit(_call, method, arguments).result()

    def peak_memory(self) -> int:
        """Return the most memory that the process has held, in MiB."""
        return self._pool.submit(_peak_memory).result()


_engines: list[Any] = []  # of this process: one


def _build(threads: int, seed: int, build: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    _engines.append(build(*arguments))


def _call(method: str, arguments: Any) -> Any:
    return getattr(_engines[0], method)(*arguments)


def _peak_memory() -> int:
    # Not getrusage, whose peak a process takes over from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
