"""Published parallel corpora: where one is, and what of its file the two languages are."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

from admin_init.errors import CorpusError, require_extra
from admin_init.translation.corpora import mtdata_index
from admin_init.translation.corpora.download import fetch
from admin_init.translation.corpora.parallel import ParallelFiles
from admin_init.translation.corpora.texts import Text, column, segments


@dataclass(frozen=True, kw_only=True)
class Bitext:
    """A parallel corpus in one file: two members of an archive, or two columns of a table."""

    url: str
    """Where the file is published."""
    members: tuple[str, str] | None = None
    """The source's and the target's text in the archive; None for a table."""
    columns: tuple[int, int] = (0, 1)
    """The source's and the target's column of the table."""
    name: str | None = None
    """What the file is called here; by default the last part of its address."""
    checksum: str | None = None
    """``sha256:`` or ``md5:``, and the digest, where it is known."""

    def open(self, folder: str | PathLike[str], mirror: str | None = None) -> ParallelFiles:
        """Download the file where the folder does not have it; it is read when iterated.

        Raises:
            CorpusError: It cannot be downloaded, or is not the file it should be.
        """
        path = fetch(self.url, folder, name=self.name, mirror=mirror, checksum=self.checksum)
        if self.members is None:
            return ParallelFiles(
                *(Text(path, extract=partial(column, index=index)) for index in self.columns)
            )
        return ParallelFiles(
            *(
                Text(path, member, segments if member.endswith(".sgm") else None)
                for member in self.members
            )
        )


def ask_mtdata(names: Sequence[str], source_lang: str, target_lang: str) -> dict[str, Bitext]:
    """Find corpora in mtdata's index, which takes seconds; the first time it writes the index.

    Args:
        names: Its ids, such as ``Statmt-europarl-7-deu-eng``; ``mtdata list`` shows them.
        source_lang: The language translated from, such as ``en``.
        target_lang: The language translated into.

    Returns:
        Each by its name.

    Raises:
        CorpusError: mtdata knows no such corpus, or it is of other languages or of a kind that
            cannot be read here.
        MissingExtraError: mtdata is not installed.
    """
    require_extra("wmt", "mtdata")
    # -P: the script's neighbours must not pass for modules that mtdata imports.
    command = [sys.executable, "-P", mtdata_index.__file__, source_lang, target_lang, *names]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CorpusError(done.stderr.strip())
    return {name: Bitext(**fields) for name, fields in json.loads(done.stdout).items()}
