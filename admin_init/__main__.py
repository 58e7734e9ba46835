"""The command line, as ``python -m admin_init``."""

from __future__ import annotations

from admin_init.cli.main import main

if __name__ == "__main__":
    main()
