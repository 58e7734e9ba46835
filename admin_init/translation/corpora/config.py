"""Configuration of a recipe's corpus."""

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
    """A corpus: the embedded one, a published one, or your own parallel text files."""

    kind: Literal["embedded", "multi30k", "iwslt14", "wmt14", "wmt17", "files"] = "embedded"
    """Name of the corpus. `embedded` is generated and needs no files. `files` reads `train.en`,
    `train.de`, `valid.en`, ... from `folder`, either plain or as .gz, .bz2, .xz or .zst. The other
    kinds download missing files into `folder`."""

    folder: str | None = None
    """Folder of the corpus files, and of downloads. Required unless `kind` is `embedded`."""

    mirror: str | None = None
    """Folder or URL that has copies of the published files under the same names. By default, the
    files are downloaded from their published URLs."""

    source_lang: str = "en"
    """Language to translate from."""

    target_lang: str = "de"
    """Language to translate into."""

    bitexts: list[str] = field(default_factory=list)
    """Training corpora for `wmt14` and `wmt17` in place of the standard ones, as mtdata IDs."""

    max_line_bytes: PositiveInt = TextLimits.max_line_bytes
    """Maximum line length of the files, in bytes. A longer line is an error."""

    max_expansion: PositiveInt = TextLimits.max_expansion
    """Maximum ratio of a file's uncompressed to its compressed size. A larger ratio is an error if
    the uncompressed text is larger than 64 MiB. Natural text stays below 10."""

    size: Literal["small", "large"] = "small"
    """Size of the embedded grammar. `large` adds words, subordinate clauses and separable verbs."""

    train: int = 20_000
    """Number of training pairs of the embedded corpus."""

    valid: int = 500
    """Number of validation pairs of the embedded corpus."""

    test: int = 500
    """Number of test pairs of the embedded corpus."""

    seed: int = 1
    """Random seed of the embedded corpus."""

    def open(self) -> ParallelCorpus:
        """Open the corpus, and download missing files.

        The embedded corpus is generated at once; files are read while the corpus is iterated.

        Raises:
            CorpusError: The settings do not fit together, or a file is missing, is damaged or
                cannot be downloaded.
        """
        check(type(self), vars(self), CorpusError)
        limits = TextLimits(max_line_bytes=self.max_line_bytes, max_expansion=self.max_expansion)
        return self._open().within(limits)

    def _open(self) -> ParallelCorpus:
        languages = _LANGUAGES.get(self.kind, [f"{self.source_lang}-{self.target_lang}"])
        if f"{self.source_lang}-{self.target_lang}" not in languages:
            raise CorpusError(
                f"The corpus {self.kind!r} has the languages {' or '.join(languages)}, but "
                f"`source_lang` is {self.source_lang!r} and `target_lang` is {self.target_lang!r}."
            )
        check_languages(self.source_lang, self.target_lang)
        if self.kind == "embedded":
            return self._embedded()
        if self.folder is None:
            raise CorpusError(f"The corpus {self.kind!r} needs a `folder`.")
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
