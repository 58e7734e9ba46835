"""Admin: an initialization with which deep Post-LN Transformers train (arXiv 2004.08249)."""

import ast
import functools
import importlib
from pathlib import Path
from typing import Any


@functools.cache
def _modules() -> dict[str, str]:
    """Map every public name to its module, as listed in the stub ``__init__.pyi``."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    # Lazy: Lightning takes seconds to import, and only AdminInit needs it.
    if name == "__all__":
        return __dir__()
    if name not in _modules():
        raise AttributeError(f"module 'admin_init' has no attribute {name!r}")
    return getattr(importlib.import_module(_modules()[name]), name)


def __dir__() -> list[str]:
    return sorted(name for name in _modules() if not name.startswith("_"))
