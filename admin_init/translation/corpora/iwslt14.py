"""IWSLT 2014, German and English: transcripts of TED talks (Cettolo et al. 2014).

TED's license is CC BY-NC-ND, so the text is downloaded and not distributed with this package.
"""

from os import PathLike

from admin_init.translation.corpora.download import fetch
from admin_init.translation.corpora.parallel import Concatenation, ParallelCorpus, ParallelFiles
from admin_init.translation.corpora.texts import Text, segments, talks

URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
"""Address of fairseq's copy; the original of IWSLT is offline."""

TEST_SETS = ("dev2010", "dev2012", "tst2010", "tst2011", "tst2012")
"""Parts of the test set, in this order."""


def iwslt14(
    folder: str | PathLike[str],
    *,
    source_lang: str = "de",
    mirror: str | None = None,
) -> ParallelCorpus:
    """Open IWSLT14 as fairseq's ``prepare-iwslt14.sh`` reads it; download it if needed.

    The corpus has no split ``valid``: the script validates on every 23rd pair of the cleaned
    training data.

    Args:
        folder: The folder of ``de-en.tgz``.
        source_lang: Language to translate from, ``de`` or ``en``; the target is the other one.
        mirror: A folder or an address to fetch the archive from instead of :data:`URL`.

    Returns:
        The splits ``train`` and ``test``.

    Raises:
        CorpusError: The archive cannot be downloaded, or has the wrong checksum.
    """
    archive = fetch(URL, folder, mirror=mirror)
    languages = (source_lang, "en" if source_lang == "de" else "de")
    train = (Text(archive, f"*train.tags.de-en.{lang}", talks) for lang in languages)
    # The pattern also matches the files of dev2012, which are named TEDX.
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
