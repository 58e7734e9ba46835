"""For ``--user-dir`` of fairseq's own commands, in a program that imports admin_init first.

``python -c "import admin_init.fairseq, fairseq_cli.train as f; f.cli_main()" data-bin ...``
is the shortest. From Python 3.11 on, ``fairseq-train`` itself fails before it reads that argument;
``python -m admin_init.fairseq train`` needs no such folder, and takes another one of yours.
"""

import admin_init.fairseq.plugin  # noqa: F401
