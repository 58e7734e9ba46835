"""For ``--user-dir`` of fairseq's own commands."""

import admin_init.fairseq.plugin  # noqa: F401
