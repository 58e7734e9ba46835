"""Parsers of the command line's options, with jsonargparse."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings


def read_help(arguments: list[str]) -> None:
    """Let parsers take the help of options from under the fields of dataclasses, if it is needed.

    Reading it out of the source takes most of a second.

    Args:
        arguments: The command line: a help or the commented settings need it.
    """
    asked = any(re.match(r"-h|--(\S+\.)?help|--print_config=", text) for text in arguments)
    set_parsing_settings(docstring_parse_attribute_docstrings=asked)


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, which end in an example."""


class OptionParser(ArgumentParser):
    """Suggests the nearest option in place of one that there is not."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter} | settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with 2 and a message, see :meth:`jsonargparse.ArgumentParser.error`."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        near = {
            match: None
            for option in unknown
            if option.startswith("-")
            for match in get_close_matches(option.partition("=")[0], self._option_string_actions, 1)
        }
        # A parser of subcommands passes on what the one of the subcommand has said.
        if near and "Did you mean" not in message:
            message += f". Did you mean {', '.join(near)}?"
        super().error(message, ex)
