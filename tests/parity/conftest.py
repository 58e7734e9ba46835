"""fairseq can be imported by the tests of this folder."""

import admin_init.fairseq  # noqa: F401
