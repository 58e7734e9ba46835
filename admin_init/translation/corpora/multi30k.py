"""Multi30k, task 1: English image captions and their German and French translations.

29,000 training pairs (Elliott et al. 2016; the text of WMT's multimodal task). The license is
CC BY-NC-SA 4.0, so the text is downloaded and not distributed with this package.
"""

from os import PathLike
from pathlib import Path

from admin_init.errors import CorpusError
from admin_init.translation.corpora.download import fetch
from admin_init.translation.corpora.parallel import ParallelCorpus, ParallelFiles

URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"

CHECKSUMS = {
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "test_2017_flickr.de.gz": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en.gz": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_mscoco.de.gz": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "test_2017_mscoco.en.gz": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
}
"""SHA-256 of each used file at :data:`URL`."""


def multi30k(
    folder: str | PathLike[str],
    *,
    target_lang: str = "de",
    test: str = "test_2016_flickr",
    mirror: str | None = None,
) -> ParallelCorpus:
    """Open Multi30k with English as the source, and download missing files.

    Args:
        folder: The folder of the files.
        target_lang: Language to translate into, ``de`` or ``fr``.
        test: The test set: ``test_2016_flickr``, or for German also ``test_2017_flickr`` or
            ``test_2017_mscoco``.
        mirror: A folder or an address to fetch the files from instead of :data:`URL`.

    Returns:
        The splits ``train``, ``valid`` and ``test``.

    Raises:
        CorpusError: A file cannot be downloaded, or has the wrong checksum.
    """
    stems = {"train": "train", "valid": "val", "test": test}

    def file(name: str) -> Path:
        if name not in CHECKSUMS:
            raise CorpusError(f"Multi30k has no {name}; it has {', '.join(CHECKSUMS)}.")
        return fetch(URL + name, folder, mirror=mirror, checksum=f"sha256:{CHECKSUMS[name]}")

    splits = {
        split: ParallelFiles(file(f"{stem}.en.gz"), file(f"{stem}.{target_lang}.gz"))
        for split, stem in stems.items()
    }
    return ParallelCorpus(source_lang="en", target_lang=target_lang, splits=splits)
