"""fairseq's commands with Admin's architectures.

``python -m admin_init.fairseq train <arguments of fairseq-train>``, and likewise for fairseq's
other commands. ``fairseq-train`` itself fails on Python 3.11 before it loads a plugin.
"""

import importlib
import pkgutil
import sys
import warnings

import fairseq_cli

from admin_init.errors import AdminInitError
from admin_init.fairseq import plugin  # noqa: F401
from admin_init.fairseq.plain import forbid_code

_COMMANDS = sorted(
    {module.name for module in pkgutil.iter_modules(fairseq_cli.__path__)} - {"hydra_train"}
)


def main() -> None:
    """Run the fairseq command named by the first argument."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in _COMMANDS:
        sys.exit(
            f"usage: python -m admin_init.fairseq {{{','.join(_COMMANDS)}}} "
            "<the arguments of that command of fairseq>"
        )
    sys.argv = [f"fairseq-{command}", *sys.argv[2:]]
    # fairseq uses hydra's old API, and hydra 1.3 prints a page of warnings per process.
    warnings.filterwarnings("ignore", "(?s).*hydra", UserWarning)
    try:
        module = importlib.import_module(f"fairseq_cli.{command}")
        forbid_code()
        module.cli_main()
    except AdminInitError as error:
        sys.exit(f"fairseq-{command}: {error}")


if __name__ == "__main__":
    main()
