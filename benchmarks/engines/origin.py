"""Where an engine comes from."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """A class of a module beside this one, and the package that it measures.

    The module is imported in the process that the engine runs in, so that no library's import
    touches another's run.
    """

    package: str
    module: str
    name: str

    def installed(self) -> bool:
        """Return whether the package is there; JoeyNMT and CTranslate2 are no requirements."""
        return importlib.util.find_spec(self.package) is not None

    def load(self) -> Any:
        """Import the class."""
        return getattr(importlib.import_module(f"engines.{self.module}"), self.name)
