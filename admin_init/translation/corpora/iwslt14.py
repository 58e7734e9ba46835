"""IWSLT 2014, German and English: transcripts of TED talks (Cettolo et al. 2014).

TED's licence is CC BY-NC-ND, so the text is downloaded and not distributed with this package.
"""

from os import PathLike

from admin_init.translation.corpora.download import fetch
from admin_init.translation.corpora.parallel import Concatenation, ParallelCorpus, ParallelFiles
from admin_init.translation.corpora.texts import Text, segments, talks

URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
"""fairseq's copy: the address that IWSLT gave is gone."""

TEST_SETS = ("dev2010", "dev2012", "tst2010", "tst2011", "tst2012")
"""What makes up the test set, in this order."""


def iwslt14(
    folder: str | PathLike[str],
    *,
    source_lang: str = "de",
    mirror: str | None = None,
) -> ParallelCorpus:
    """Open IWSLT14 as fairseq's ``prepare-iwslt14.sh`` reads it, and download it where needed.

    There is no split ``valid``: that script takes every 23rd pair of the cleaned training data.

    Args:
        folder: Where ``de-en.tgz`` lies, or is put.
        source_lang: ``de`` or ``en``, which is translated into the other.
        mirror: A folder or an address that it is fetched from instead of :data:`URL`.

    Raises:
        CorpusError: It cannot be downloaded, or is not the file it should be.
    """
    archive = fetch(URL, folder, mirror=mirror)
    languages = (source_lang, "en" if source_lang == "de" else "de")
    train = (Text(archive, f"*train.tags.de-en.{lang}", talks) for lang in languages)
    # That of dev2012 is called TEDX.
    tests = (
        (Text(archive, f"*.TED*.{name}.de-en.{lang}.xml", segments) for lang in languages)
        for name in TEST_SETS
    )
    return ParallelCorpus(
        source_lang=languages[0],
        target_lang=languages[1],
        splits={
            "train": ParallelFiles(*train),
            "test": Concatenation(tuple(ParallelFiles(*texts) for texts in tests)),
        },
    )
