"""Tiny corpora in the files that the real ones are published in, for mirrors."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from admin_init.translation.corpora.synthetic.grammar import embedded_corpus

Pairs = Sequence[tuple[str, str]]  # English, and German or what stands in for French

SENTENCES = [
    "A title with <b>markup</b>",
    "A description & so on",
    "It\u2019s here, isn\u2019t it?",
    "",
    "  two   spaces\tand a tab ",
    "a line separator \u2028 in it",
    "1 < 2 &amp; 3 > 2",
    "</seg> in a sentence",
]
"""Lines with all that extraction could get wrong."""


def sentence_pairs(train: int = 240, held_out: int = 10) -> tuple[Pairs, Pairs, Pairs]:
    """Training, validation and test pairs."""
    splits = embedded_corpus(train=train, valid=held_out, test=held_out)
    return splits["train"], splits["valid"], splits["test"]


def fairseq_script(name: str) -> str:
    """One that the published data were made with."""
    (folder,) = find_spec("fairseq").submodule_search_locations or []  # type: ignore[union-attr]
    return (Path(folder) / "examples/translation" / name).read_text()


def text(sentences: Sequence[str]) -> bytes:
    return "".join(f"{sentence}\n" for sentence in sentences).encode()


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def sgm(sentences: Sequence[str], kind: str = "src") -> bytes:
    """As of WMT's test sets."""
    return "\n".join(
        [
            f'<{kind}set setid="newstest" srclang="any" trglang="any">',
            '<doc sysid="ref" docid="abc" genre="news" origlang="en">',
            "<p>",
            *(f'<seg id="{i}">{sentence}</seg>' for i, sentence in enumerate(sentences, 1)),
            "</p>",
            "</doc>",
            f"</{kind}set>",
            "",
        ]
    ).encode()


def talk_xml(sentences: Sequence[str]) -> bytes:
    """As of IWSLT's test sets."""
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<mteval><srcset setid="iwslt" srclang="german">',
            '<doc docid="1" genre="lectures">',
            "<url>http://www.ted.com/talks/1.html</url>",
            "<title>A title that is no segment</title>",
            *(f'<seg id="{i}"> {sentence} </seg>' for i, sentence in enumerate(sentences, 1)),
            "</doc>",
            "</srcset></mteval>",
            "",
        ]
    ).encode()


def talk_tags(sentences: Sequence[str]) -> bytes:
    """As of IWSLT's training data: two sentences are a title and a description."""
    title, description, *others = sentences
    return text(
        [
            "<url>http://www.ted.com/talks/2.html</url>",
            "<keywords>talks, a sentence of keywords</keywords>",
            "<talkid>2</talkid>",
            f"<title>{title}</title>",
            f"<description>{description}</description>",
            *others,
        ]
    )


def multi30k(mirror: Path) -> None:
    mirror.mkdir(parents=True, exist_ok=True)
    names = "train", "val", "test_2016_flickr"
    for name, pairs in zip(names, sentence_pairs(), strict=True):
        english, other = zip(*pairs, strict=True)
        for lang, sentences in {"en": english, "de": other, "fr": other}.items():
            (mirror / f"{name}.{lang}.gz").write_bytes(gzip.compress(text(sentences)))


def iwslt14(mirror: Path) -> None:
    train, _, test = sentence_pairs()
    members = {}
    for lang, side in (("en", 0), ("de", 1)):
        members[f"de-en/train.tags.de-en.{lang}"] = talk_tags([pair[side] for pair in train])
        for i, name in enumerate(
            ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"]
        ):
            part = [pair[side] for pair in test[2 * i : 2 * i + 2]]
            members[f"de-en/IWSLT14.{name}.de-en.{lang}.xml"] = talk_xml(part)
    tar(mirror / "de-en.tgz", members)


WMT_TEXTS = {
    "training-parallel-europarl-v7.tgz": [
        "training/europarl-v7.de-en.{}",
        "training/europarl-v7.fr-en.{}",
    ],
    "training-parallel-commoncrawl.tgz": ["commoncrawl.de-en.{}", "commoncrawl.fr-en.{}"],
    "training-parallel-nc-v12.tgz": ["training/news-commentary-v12.de-en.{}"],
    "training-parallel-nc-v9.tgz": ["training/news-commentary-v9.fr-en.{}"],
    "training-parallel-un.tgz": ["un/undoc.2000.fr-en.{}"],
    "training-giga-fren.tar": ["giga-fren.release2.fixed.{}.gz"],
    "dev.tgz": ["dev/newstest2013.{}", "dev/newstest2016-ende-{}.{}.sgm"],
    "test-full.tgz": [
        "test-full/newstest2014-deen-{}.{}.sgm",
        "test-full/newstest2014-fren-{}.{}.sgm",
    ],
    "test.tgz": ["test/newstest2017-ende-{}.{}.sgm"],
}
"""The members of each archive, for a language; of an sgm, for its side too."""


def wmt(mirror: Path, size: int = 100) -> None:
    """All that WMT14 and WMT17 need, with `size` pairs a training corpus, no two alike."""
    train, valid, test = sentence_pairs(8 * size)
    corpora = iter(range(0, len(train), size))
    for archive, stems in WMT_TEXTS.items():
        members = {}
        for stem in stems:
            if archive.startswith("training"):
                pairs = train[(start := next(corpora)) : start + size]
            else:
                pairs = valid if archive == "dev.tgz" else test
            other = "fr" if "fr" in stem else "de"
            for lang, sentences in zip(("en", other), zip(*pairs, strict=True), strict=True):
                side = "src" if lang == "en" else "ref"
                if stem.endswith(".sgm"):
                    members[stem.format(side, lang)] = sgm(sentences, side)
                else:
                    content = text(sentences)
                    zipped = stem.endswith(".gz")
                    members[stem.format(lang)] = gzip.compress(content) if zipped else content
        tar(mirror / archive, members)
