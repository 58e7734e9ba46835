"""The command line, called in this process or killed in another."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil
import pytest

from admin_init.cli import main as cli


class Done(NamedTuple):
    """What came of a command."""

    code: Any
    out: str
    err: str


def call(*arguments: str, stdin: bytes = b"") -> Done:
    """Call ``admin-init`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main(arguments)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start ``admin-init`` in a process of its own."""
    options["env"] = os.environ | options.get("env", {})
    command = [sys.executable, "-c", "from admin_init.cli.main import main; main()", *arguments]
    return subprocess.Popen(command, **options)


def kill_at(file: Path, *arguments: str, number: signal.Signals = signal.SIGKILL) -> str:
    """Start ``admin-init``, and send a signal when a file appears.

    SIGKILL goes to its children too, and nobody gets to tidy up; others to the command alone, whose
    children must end.

    Returns:
        What it said on standard error.
    """
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = start(*arguments, **pipes, start_new_session=True)
    try:
        while not file.exists():
            assert process.poll() is None, "it ended before there was such a file"
            time.sleep(0.005)
        if number != signal.SIGKILL:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            assert process.wait() == 128 + number
            psutil.wait_procs(children)  # for ever, if one is left
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    return errors.decode()
