"""Memory that the C library keeps for the next tensors."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensors, as long as the process lasts.

    By default glibc returns large blocks to the system at once, and the system fills every page of
    the next ones with zeros: a twentieth of the time of training, a tenth of that of beam search.
    A process holds what it needed at most until it ends, and somewhat more where the sizes of its
    tensors keep changing. It is for the processes of the command line, which are ours alone.

    Nothing is done where the C library is another one, or where the environment says what its
    ``malloc`` does (``MALLOC_...`` or ``GLIBC_TUNABLES``, see mallopt(3)).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)  # all blocks come from the heap
        library.mallopt(_M_TRIM_THRESHOLD, -1)  # which does not shrink
