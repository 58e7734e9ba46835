"""Code in processes that have imported torch alone, each forked from one that has."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import traceback
from typing import IO


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in this folder as if a new interpreter did, whose ``sys`` is imported."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps([code, os.getcwd()]), file=server.stdin, flush=True)
    return subprocess.CompletedProcess(code, *json.loads(server.stdout.readline()))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that ends with the standard input that it has from this one."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, __file__], env=plain, text=True, **pipes)


def _serve() -> None:
    sys.path[0] = ""  # the current folder, not what lies beside this file
    import torch  # noqa: F401

    for line in sys.stdin:
        code, folder = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = os.fork()
            if not process:
                os.chdir(folder)
                _run(code, out, err)
            _, status = os.waitpid(process, 0)
            texts = [file.seek(0) or file.read() for file in (out, err)]
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), *texts]) + "\n")
        sys.stdout.flush()


def _run(code: str, out: IO[str], err: IO[str]) -> None:
    status = 1
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__", "sys": sys})
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
