"""News translation tasks of WMT, for the recipes.

The addresses and checksums of the files are fixed here, so that a recipe depends on no index. The
corpora have different licenses (the READMEs of the recipes list the known ones), so the text is
downloaded and not distributed with this package.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Literal

from admin_init.errors import CorpusError, import_extra
from admin_init.translation.corpora.bitext import Bitext, ask_mtdata
from admin_init.translation.corpora.parallel import Concatenation, ParallelCorpus

Year = Literal["wmt14", "wmt17"]

_ISO_639_3 = {"de": "deu", "fr": "fra"}

_EUROPARL = (
    "http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
    "sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
)
_COMMON_CRAWL = (
    "http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
    "sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
)
_NEWS_COMMENTARY_12 = (
    "http://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz",
    "sha256:2b45f30ef1d550d302fd17dd3a5cbe19134ccc4c2cf50c2dae534aee600101a2",
)
_NEWS_COMMENTARY_9 = (
    "http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz",
    "sha256:cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
)
_UN = (
    "http://www.statmt.org/wmt13/training-parallel-un.tgz",
    "sha256:29141b5c1eba149a94f7a59d3b1a834b2e47fe0f8758d68dcd77a3d3f497ee47",
)
_GIGA_FREN = (
    "http://www.statmt.org/wmt10/training-giga-fren.tar",
    "sha256:3ff8319f6919393520559bfbc7ad6a747ec81b3abc7be9993b338d4b017b4d9a",
)
_DEV = (
    "http://data.statmt.org/wmt20/translation-task/dev.tgz",
    "md5:037f2b37aab74febbb1b2307dc2afb54",
)


def _bitext(file: tuple[str, str], *members: str) -> Bitext:
    source, target = members
    return Bitext(url=file[0], members=(source, target), checksum=file[1])


CORPORA = {
    "Statmt-europarl_wmt13-7-deu-eng": _bitext(
        _EUROPARL, "training/europarl-v7.de-en.en", "training/europarl-v7.de-en.de"
    ),
    "Statmt-europarl_wmt13-7-fra-eng": _bitext(
        _EUROPARL, "training/europarl-v7.fr-en.en", "training/europarl-v7.fr-en.fr"
    ),
    "Statmt-commoncrawl_wmt13-1-deu-eng": _bitext(
        _COMMON_CRAWL, "commoncrawl.de-en.en", "commoncrawl.de-en.de"
    ),
    "Statmt-commoncrawl_wmt13-1-fra-eng": _bitext(
        _COMMON_CRAWL, "commoncrawl.fr-en.en", "commoncrawl.fr-en.fr"
    ),
    "Statmt-newstest-2013-eng-deu": _bitext(_DEV, "dev/newstest2013.en", "dev/newstest2013.de"),
    "Statmt-newstest_ende-2016-eng-deu": _bitext(
        _DEV, "dev/newstest2016-ende-src.en.sgm", "dev/newstest2016-ende-ref.de.sgm"
    ),
    # mtdata 0.5.1 does not have these; the names follow its scheme.
    "Statmt-news_commentary_wmt17-12-deu-eng": _bitext(
        _NEWS_COMMENTARY_12,
        "training/news-commentary-v12.de-en.en",
        "training/news-commentary-v12.de-en.de",
    ),
    "Statmt-news_commentary_wmt14-9-fra-eng": _bitext(
        _NEWS_COMMENTARY_9,
        "training/news-commentary-v9.fr-en.en",
        "training/news-commentary-v9.fr-en.fr",
    ),
    "Statmt-un_wmt13-2000-fra-eng": _bitext(
        _UN, "un/undoc.2000.fr-en.en", "un/undoc.2000.fr-en.fr"
    ),
    "Statmt-giga_fren_wmt10-2-fra-eng": _bitext(
        _GIGA_FREN, "giga-fren.release2.fixed.en.gz", "giga-fren.release2.fixed.fr.gz"
    ),
}
"""Corpora with English as the source, by their ids in mtdata. The checksums are from TensorFlow
Datasets (``url_checksums/wmt{14,15,17}_translate.txt``), that of ``dev.tgz`` from sacreBLEU."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The corpora of a translation task."""

    train: tuple[str, ...]
    """Training corpora, by their names in :data:`CORPORA`."""
    valid: tuple[str, ...] = ()
    """Validation corpora; none if the recipe validates on some of the training pairs."""
    test: str
    """Name of a test set in sacreBLEU."""


_TRAIN_DE = (
    "Statmt-europarl_wmt13-7-deu-eng",
    "Statmt-commoncrawl_wmt13-1-deu-eng",
    "Statmt-news_commentary_wmt17-12-deu-eng",
)
_TRAIN_FR = (
    "Statmt-europarl_wmt13-7-fra-eng",
    "Statmt-commoncrawl_wmt13-1-fra-eng",
    "Statmt-un_wmt13-2000-fra-eng",
    "Statmt-news_commentary_wmt14-9-fra-eng",
    "Statmt-giga_fren_wmt10-2-fra-eng",
)
TASKS: dict[tuple[Year, str], Task] = {
    ("wmt14", "de"): Task(
        train=_TRAIN_DE, valid=("Statmt-newstest-2013-eng-deu",), test="wmt14/full"
    ),
    ("wmt14", "fr"): Task(train=_TRAIN_FR, test="wmt14/full"),
    ("wmt17", "de"): Task(
        train=_TRAIN_DE, valid=("Statmt-newstest_ende-2016-eng-deu",), test="wmt17"
    ),
}
"""Tasks by year and target language. The training data and their order are those of fairseq's
``prepare-wmt14en2de.sh``, whose ``wmt17_en_de`` uses the data of WMT14 too, and
``prepare-wmt14en2fr.sh``."""


def wmt(
    year: Year,
    folder: str | PathLike[str],
    *,
    target_lang: str = "de",
    bitexts: Sequence[str] = (),
    mirror: str | None = None,
) -> ParallelCorpus:
    """Open a task with English as the source, and download missing files.

    Args:
        year: The year of the task.
        folder: The folder of the files. Several tasks may share it.
        target_lang: Language to translate into: ``de``, or in 2014 also ``fr``.
        bitexts: Training corpora in place of the standard ones: names in :data:`CORPORA`, or ids of
            mtdata.
        mirror: A folder or an address to fetch all files from, by name.

    Returns:
        The splits ``train`` and ``test``, and ``valid`` if the task has one.

    Raises:
        CorpusError: The task or a corpus does not exist, or a file cannot be downloaded or has the
            wrong checksum.
    """
    if (year, target_lang) not in TASKS:
        raise CorpusError(
            "`year` and `target_lang` must be one of "
            f"{', '.join(map(' '.join, TASKS))}, but are {year} {target_lang}."
        )
    task = TASKS[year, target_lang]
    test = _test_set(task.test, target_lang)
    names = {"train": tuple(bitexts) or task.train, "valid": task.valid}
    known = {name: corpus for name, corpus in CORPORA.items() if _ISO_639_3[target_lang] in name}
    unknown = [name for name in names["train"] if name not in known]
    known |= ask_mtdata(unknown, "en", target_lang) if unknown else {}
    splits = {
        split: Concatenation(tuple(known[name].open(folder, mirror) for name in parts))
        for split, parts in names.items()
        if parts
    }
    return ParallelCorpus(
        source_lang="en",
        target_lang=target_lang,
        splits={**splits, "test": test.open(folder, mirror)},
    )


def _test_set(name: str, target_lang: str) -> Bitext:
    dataset = import_extra("translation", "sacrebleu.dataset").DATASETS[name]
    source, target = dataset.langpairs[f"en-{target_lang}"]
    [(url, md5)] = zip(dataset.data or [], dataset.md5 or [], strict=True)
    return Bitext(url=url, members=(source, target), checksum=f"md5:{md5}")
