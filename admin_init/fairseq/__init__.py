"""fairseq 0.12.2 on current Python, with Admin; importing this package imports fairseq.

See :mod:`admin_init.fairseq.compat` for the changes that this makes to the process.
"""

from admin_init.fairseq.compat import import_fairseq

import_fairseq()
