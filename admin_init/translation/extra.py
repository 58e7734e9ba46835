"""What needs the extra ``wmt``."""

from importlib import import_module
from typing import Any

from admin_init.translation.errors import CorpusError


def import_extra(module: str) -> Any:
    """Imports a module that comes with the extra ``wmt``.

    Raises:
        CorpusError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = (
            "backports.zstd" if "zstd" in module else module.partition(".")[0].replace("_", "-")
        )
        raise CorpusError(
            f"These settings need {package}: pip install 'admin-init[wmt]'"
        ) from error
