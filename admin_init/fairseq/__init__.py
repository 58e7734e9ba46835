"""fairseq 0.12.2 on today's Python, and Admin in it; importing this package imports fairseq.

See :mod:`admin_init.fairseq.compat` for what that changes in the process.
"""

from admin_init.fairseq.compat import import_fairseq

import_fairseq()
