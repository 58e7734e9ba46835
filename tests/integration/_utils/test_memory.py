"""Freed memory, which the process keeps for the next tensors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from _helpers import fresh
from _helpers.forked import together

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc")

ALLOCATIONS = """
import resource
import torch
from admin_init._utils.memory import keep_freed_memory

{first}

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for round_ in range(20):
    if round_ == 10:  # by then there is room for one wherever the heap begins
        before = faults()
    torch.zeros(2**24).add_(1)  # 64 MiB
print(faults() - before)
"""


def page_faults(first: str = "", **environment: str) -> int:
    """Pages that ten tensors of 64 MiB, one after the other, get from the system."""
    code = ALLOCATIONS.format(first=first)
    if not environment:
        return int(fresh.run(code).stdout)
    command = [sys.executable, "-c", code]
    return int(subprocess.check_output(command, env=os.environ | environment))


def test_the_next_tensors_get_the_pages_of_the_last() -> None:
    assert page_faults() > 1000
    assert page_faults("keep_freed_memory()") < 100


def test_what_the_environment_says_of_malloc_holds() -> None:
    assert page_faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072") > 1000


@pytest.mark.parametrize(
    "command",
    [
        "enter_worker(1)",
        "attempt(['translate', '--checkpoint', 'none.ckpt'])",
        "attempt(['test', '--ckpt_path', 'none.ckpt'])",
    ],
)
def test_the_processes_of_the_command_line_keep_it(command: str) -> None:
    first = f"""
from admin_init.cli.main import main
from admin_init.lab.comparison.run import enter_worker

def attempt(arguments):
    with contextlib.suppress(SystemExit):
        main(arguments)

{command}
"""
    printed = together(exec, "import contextlib\n" + ALLOCATIONS.format(first=first), {}, ranks=1)
    assert int(printed[0].splitlines()[-1]) < 100


def test_the_process_of_a_program_that_translates_is_its_own() -> None:
    module = """
from admin_init.nn import TransformerConfig
from admin_init.translation.module import TranslationModule
TranslationModule(TransformerConfig(vocabulary_size=9, dim=8, heads=2)).setup("fit")
"""
    (printed,) = together(exec, ALLOCATIONS.format(first=module), {}, ranks=1)
    assert int(printed) > 1000
