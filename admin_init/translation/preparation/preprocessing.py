"""What happens to a sentence before it is split into subwords."""

from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.subwords.moses import Moses


class Preprocessor:
    """Turns raw sentences of one language into what is split into subwords, and back.

    Args:
        lang: The language.
        config: What is done.
        published_test: Whether the sentences are those of a test set, which published recipes do
            not normalize: Moses tokens then come from the text itself, with plain apostrophes.

    Raises:
        MissingExtraError: The settings need sacremoses, which is not installed.
    """

    def __init__(self, lang: str, config: PrepareConfig, *, published_test: bool = False) -> None:
        self._config = config
        self._tokenizes = config.subwords == "subword-nmt"
        self._plain_apostrophes = published_test and self._tokenizes
        self._normalizes = config.normalize and not self._plain_apostrophes
        self._moses = Moses(lang) if self._tokenizes or self._normalizes else None

    def __call__(self, text: str) -> str:
        """Return one line: with Moses, words that have one space between them."""
        text = " ".join(text.split("\n"))
        if self._plain_apostrophes:
            text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        if self._moses is not None:
            if self._normalizes:
                text = self._moses.normalize(text)
            if self._tokenizes:
                text = self._moses.tokenize(
                    text, aggressive_hyphens=self._config.aggressive_hyphens
                )
        return text.lower() if self._config.lowercase else text

    def reference(self, text: str) -> str:
        """Return the plain sentence that a translation is compared with, on one line.

        It is the raw text, so that scores compare with other people's; but lower-cased where the
        training data are, because such a model cannot know better.
        """
        # sacreBLEU reads lines: a line separator inside a sentence would shift all after it.
        plain = " ".join(text.splitlines())
        return plain.lower() if self._config.lowercase else plain

    def restore(self, text: str) -> str:
        """Return the plain text that a model means by what it was taught to write."""
        return self._moses.detokenize(text) if self._moses and self._tokenizes else text
