"""Which corpus to prepare, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from admin_init.translation.corpora import ParallelCorpus, parallel_files
from admin_init.translation.errors import CorpusError
from admin_init.translation.grammar import embedded_corpus
from admin_init.translation.multi30k import multi30k


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """A corpus: the embedded one, Multi30k, or parallel text files."""

    kind: Literal["embedded", "multi30k", "files"] = "embedded"
    """`embedded` needs nothing. `multi30k` reads `folder`, or downloads into it. `files` reads
    `train.en`, `train.de`, `valid.en`, ... plain or .gz, from `folder`."""

    folder: str | None = None
    """Where the files of `multi30k` and `files` lie."""

    source_lang: str = "en"
    """Language translated from."""

    target_lang: str = "de"
    """Language translated into."""

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
            CorpusError: The settings describe no corpus, or a file is missing or damaged.
        """
        if self.kind == "embedded":
            if (self.source_lang, self.target_lang) != ("en", "de"):
                raise CorpusError(
                    "The embedded corpus is English to German, but `source_lang` is "
                    f"{self.source_lang!r} and `target_lang` is {self.target_lang!r}."
                )
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
        if self.folder is None:
            raise CorpusError(f"A corpus of the kind {self.kind!r} needs a `folder`.")
        if self.kind == "multi30k":
            if self.source_lang != "en" or self.target_lang not in ("de", "fr"):
                raise CorpusError(
                    "Multi30k is from `en` to `de` or `fr`, but `source_lang` is "
                    f"{self.source_lang!r} and `target_lang` is {self.target_lang!r}."
                )
            return multi30k(self.folder, target_lang=self.target_lang)  # type: ignore[arg-type]
        return parallel_files(self.folder, self.source_lang, self.target_lang)
