"""What the data path refuses."""

from admin_init.errors import AdminInitError


class CorpusError(AdminInitError):
    """A corpus, a dictionary or a data-bin that cannot be used, or is not what it should be."""

    exit_code = 2
    """What the command line exits with."""
