import sys

import pytest

from admin_init.translation.recipe_cli import _told_once


class Finalized:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_a_dead_loader_is_told_of_by_the_error_that_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: said.append(str(args.exc_value)))
    hook = sys.unraisablehook
    with _told_once():
        Finalized(RuntimeError("DataLoader worker (pid 7069) is killed by signal: Terminated. "))
        Finalized(RuntimeError("something else"))
    assert said == ["something else"]
    assert sys.unraisablehook is hook
