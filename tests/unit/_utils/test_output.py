"""Results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
import sys
from unittest import mock

import pytest
from rich import get_console

from admin_init._utils.output import results, results_only, say
from admin_init.errors import AdminInitError


def test_what_others_print_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("chatter")
    logger.propagate = False
    with results_only():
        print("a bar")  # noqa: T201
        get_console().print("a table")
        logger.addHandler(handler := logging.StreamHandler())
        logger.warning("a warning")
        logger.removeHandler(handler)
        say("a result")
        results().write("another\n")
    say("after")
    out, err = capsys.readouterr()
    assert out == "a result\nanother\nafter\n"
    assert err == "a bar\na table\na warning\n"


def test_where_it_is_closed_nothing_begins() -> None:
    begun = False
    with (
        mock.patch.object(sys, "stdout", None),
        pytest.raises(AdminInitError, match="standard output is closed"),
        results_only(),
    ):
        begun = True
    assert not begun


def test_an_error_on_the_way_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), results_only():
        raise KeyError
    print("out")  # noqa: T201
    assert capsys.readouterr() == ("out\n", "")
