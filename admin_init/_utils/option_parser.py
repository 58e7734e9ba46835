"""Parsers for the options of the command line, based on jsonargparse."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings


def read_help(arguments: list[str]) -> None:
    """Let parsers read the help of options from the docstrings of dataclass fields, if needed.

    Reading them from the source takes most of a second.

    Args:
        arguments: The command line. ``--help`` and ``--print_config=comments`` need the docstrings.
    """
    asked = any(re.match(r"-h|--(\S+\.)?help|--print_config=", text) for text in arguments)
    set_parsing_settings(docstring_parse_attribute_docstrings=asked)


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help formatter that keeps the line breaks of a description, for its example."""


class OptionParser(ArgumentParser):
    """Parser that suggests the nearest option for an unknown one."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter} | settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 and a message; see :meth:`jsonargparse.ArgumentParser.error`."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        near = {
            match: None
            for option in unknown
            if option.startswith("-")
            for match in get_close_matches(option.partition("=")[0], self._option_string_actions, 1)
        }
        # The parser of subcommands repeats the message of a subcommand's parser.
        if near and "Did you mean" not in message:
            message += f". Did you mean {', '.join(near)}?"
        super().error(message, ex)
