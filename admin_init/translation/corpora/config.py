"""Which corpus to prepare, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from admin_init._utils.validation import PositiveInt, check
from admin_init.errors import CorpusError
from admin_init.translation.corpora.iwslt14 import iwslt14
from admin_init.translation.corpora.multi30k import multi30k
from admin_init.translation.corpora.parallel import ParallelCorpus, check_languages, parallel_files
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.corpora.texts import TextLimits
from admin_init.translation.corpora.wmt import wmt

_LANGUAGES = {
    "embedded": ["en-de"],
    "multi30k": ["en-de", "en-fr"],
    "iwslt14": ["de-en", "en-de"],
    "wmt14": ["en-de", "en-fr"],
    "wmt17": ["en-de"],
}


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """A corpus: the embedded one, a published one, or parallel text files."""

    kind: Literal["embedded", "multi30k", "iwslt14", "wmt14", "wmt17", "files"] = "embedded"
    """`embedded` needs nothing. `files` reads `train.en`, `train.de`, `valid.en`, ... plain, .gz,
    .bz2, .xz or .zst, from `folder`. The others download into `folder` what it does not have."""

    folder: str | None = None
    """Where the files lie, or are put."""

    mirror: str | None = None
    """Folder or address that files are fetched from, by their names, instead of the network."""

    source_lang: str = "en"
    """Language translated from."""

    target_lang: str = "de"
    """Language translated into."""

    bitexts: list[str] = field(default_factory=list)
    """What `wmt14` and `wmt17` train on instead of their own corpora: ids of mtdata."""

    max_line_bytes: PositiveInt = TextLimits.max_line_bytes
    """Most bytes of a line of the files; a longer one is refused."""

    max_expansion: PositiveInt = TextLimits.max_expansion
    """Most times its size to which a compressed file may unpack, beyond the first 64 MiB; natural
    text stays below 10. What unpacks to more is refused."""

    size: Literal["small", "large"] = "small"
    """Of the embedded corpus: `large` adds subordinate clauses and separable verbs."""

    train: int = 20_000
    """Training pairs of the embedded corpus."""

    valid: int = 500
    """Validation pairs of the embedded corpus."""

    test: int = 500
    """Test pairs of the embedded corpus."""

    seed: int = 1
    """What the embedded corpus is drawn with."""

    def open(self) -> ParallelCorpus:
        """Find the corpus; the embedded one is drawn, the others are read when iterated.

        Raises:
            CorpusError: The settings describe no corpus, or a file cannot be downloaded, is missing
                or damaged.
        """
        check(type(self), vars(self), CorpusError)
        limits = TextLimits(max_line_bytes=self.max_line_bytes, max_expansion=self.max_expansion)
        return self._open().within(limits)

    def _open(self) -> ParallelCorpus:
        languages = _LANGUAGES.get(self.kind, [f"{self.source_lang}-{self.target_lang}"])
        if f"{self.source_lang}-{self.target_lang}" not in languages:
            raise CorpusError(
                f"The corpus {self.kind!r} is {' or '.join(languages)}, but `source_lang` is "
                f"{self.source_lang!r} and `target_lang` is {self.target_lang!r}."
            )
        check_languages(self.source_lang, self.target_lang)
        if self.kind == "embedded":
            return self._embedded()
        if self.folder is None:
            raise CorpusError(f"A corpus of the kind {self.kind!r} needs a `folder`.")
        if self.kind == "files":
            return parallel_files(self.folder, self.source_lang, self.target_lang)
        if self.kind == "multi30k":
            return multi30k(self.folder, target_lang=self.target_lang, mirror=self.mirror)
        if self.kind == "iwslt14":
            return iwslt14(self.folder, source_lang=self.source_lang, mirror=self.mirror)
        return wmt(
            self.kind,
            self.folder,
            target_lang=self.target_lang,
            bitexts=self.bitexts,
            mirror=self.mirror,
        )

    def _embedded(self) -> ParallelCorpus:
        try:
            splits = embedded_corpus(
                self.size, seed=self.seed, train=self.train, valid=self.valid, test=self.test
            )
        except ValueError as error:
            raise CorpusError(str(error)) from error
        return ParallelCorpus(
            source_lang="en",
            target_lang="de",
            splits={str(name): pairs for name, pairs in splits.items()},
        )
