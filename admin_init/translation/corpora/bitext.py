"""Published parallel corpora: addresses, and the two languages' parts of each file."""

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
    """Address of the file."""
    members: tuple[str, str] | None = None
    """Names of the source text and the target text in the archive; None for a table."""
    columns: tuple[int, int] = (0, 1)
    """Columns of the source and the target in the table, counted from 0."""
    name: str | None = None
    """Name of the downloaded file; by default the last part of its address."""
    checksum: str | None = None
    """``sha256:`` or ``md5:`` and the digest; None if it is not known."""

    def open(self, folder: str | PathLike[str], mirror: str | None = None) -> ParallelFiles:
        """Download the file if the folder does not have it.

        The file is read later, while the sentence pairs are iterated.

        Args:
            folder: The folder of the file.
            mirror: Folder or address to fetch the file from instead of its own address.

        Raises:
            CorpusError: The file cannot be downloaded, or has the wrong checksum.
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
    """Look up corpora in mtdata's index, which takes seconds. The first call writes the index.

    Args:
        names: Ids of corpora in mtdata, such as ``Statmt-europarl-7-deu-eng``; ``mtdata list``
            shows them.
        source_lang: Language to translate from, such as ``en``.
        target_lang: Language to translate into.

    Returns:
        The corpora, by id.

    Raises:
        CorpusError: mtdata does not know a corpus, or the corpus is in other languages or in a
            format that cannot be read here.
        MissingExtraError: mtdata is not installed.
    """
    require_extra("wmt", "mtdata")
    # -P keeps the script's folder off the import path: mtdata must not import its neighbours.
    command = [sys.executable, "-P", mtdata_index.__file__, source_lang, target_lang, *names]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CorpusError(done.stderr.strip())
    return {name: Bitext(**fields) for name, fields in json.loads(done.stdout).items()}
