"""Processes that need not import anything: they are forked from a server that has."""

import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from admin_init._utils.interruption import on_signals

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["admin_init.cli.main", "admin_init.lab.comparison.run", "admin_init.translation.recipe_cli"]
)


class Ended(NamedTuple):
    """What came of a command."""

    code: int | None
    """Negative: the signal that ended it."""
    text: str
    """All that it said."""
    seconds: float
    """How long it took."""

    @property
    def last(self) -> str:
        """The last line that it said."""
        return self.text.strip().rpartition("\n")[2]


def run(
    *arguments: str,
    ranks: int = 1,
    after: float = 200,
    most: int | None = None,
    first: Callable[[int], object] = int,
) -> Ended:
    """Run `admin-init` in this folder.

    Args:
        arguments: The command line.
        ranks: How many processes train together.
        after: All of them are killed so many seconds later.
        most: The kernel kills a process that writes more bytes than this into a file.
        first: Called in each process with its rank.
    """
    began = time.monotonic()
    outputs = [Path(f"output-{rank}.txt").absolute() for rank in range(ranks)]
    port = _free_port()
    processes = [
        SERVER.Process(
            target=_run,
            args=(arguments, output, _rank(rank, ranks, port), most, partial(first, rank)),
        )
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.0, began + after - time.monotonic()))
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    text = "".join(output.read_text("utf-8") for output in outputs if output.exists())
    return Ended(processes[0].exitcode, text, time.monotonic() - began)


def start(*arguments: str, first: Callable[[], object] = int) -> tuple[Any, Path]:
    """Start `admin-init` in this folder, and wait until it answers signals.

    Args:
        arguments: The command line.
        first: Called in the process before anything else, such as ``os.setsid``.

    Returns:
        Its process, and the file that gets all that it says.
    """
    output = Path("output-0.txt").absolute()
    output.unlink(missing_ok=True)
    process = SERVER.Process(target=_run, args=(arguments, output, {}, None, first))
    process.start()
    while not output.exists():
        assert process.is_alive()
        time.sleep(0.01)
    return process, output


def together(function: Callable[..., object], *arguments: Any, ranks: int = 2) -> list[str]:
    """Call a function of a module in processes that train together, in this folder.

    Returns:
        The output of each rank.
    """
    outputs = [Path(f"output-{rank}.txt").absolute() for rank in range(ranks)]
    port = _free_port()
    processes = [
        SERVER.Process(target=_call, args=(output, _rank(rank, ranks, port), function, arguments))
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    texts = [output.read_text("utf-8") for output in outputs]
    assert [process.exitcode for process in processes] == [0] * ranks, "\n".join(texts)
    return texts


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


def _rank(rank: int, ranks: int, port: str) -> dict[str, str]:
    """What a launcher tells each process, so that Lightning launches none."""
    if ranks == 1:
        return {}
    return {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "LOCAL_RANK": str(rank)}


def _call(
    output: Path,
    environment: dict[str, str],
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    _enter(output, environment)
    _redirect(output)
    function(*arguments)


def _run(
    arguments: tuple[str, ...],
    output: Path,
    environment: dict[str, str],
    most: int | None,
    first: Callable[[], object],
) -> None:
    _enter(output, environment)
    with on_signals(lambda number: os._exit(128 + number)):  # before the command's own, and after
        first()
        _redirect(output)
        if most is not None:
            # Python ignores this signal, and would raise an OSError.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        from admin_init.cli import main as cli

        cli.main(arguments)


def _enter(output: Path, environment: dict[str, str]) -> None:
    os.chdir(output.parent)
    os.environ.update(environment)
    # As in a command from a terminal: loaders of batches are forked, and Ctrl-C is heard.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _redirect(output: Path) -> None:
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
