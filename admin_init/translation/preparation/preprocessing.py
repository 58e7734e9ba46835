"""Preprocessing of sentences before they are split into subwords."""

from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.subwords.moses import Moses


class Preprocessor:
    """Preprocesses raw sentences of one language, and undoes it for translations.

    Args:
        lang: The language.
        config: Settings of the preparation.
        published_test: Whether the sentences belong to a test set. Published recipes tokenize test
            sets without normalization, except that apostrophes become plain.

    Raises:
        MissingExtraError: The settings need sacremoses, and it is not installed.
    """

    def __init__(self, lang: str, config: PrepareConfig, *, published_test: bool = False) -> None:
        self._config = config
        self._tokenizes = config.subwords == "subword-nmt"
        self._plain_apostrophes = published_test and self._tokenizes
        self._normalizes = config.normalize and not self._plain_apostrophes
        self._moses = Moses(lang) if self._tokenizes or self._normalizes else None

    def __call__(self, text: str) -> str:
        """Preprocess a sentence into one line; with Moses, into words separated by spaces."""
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
        """Return the plain reference sentence for scoring, on one line.

        It is the raw text, so that scores are comparable with published ones. If the training data
        are lower-cased, the reference is too, because the model cannot produce capitals.
        """
        # A line separator inside a sentence would shift the lines after it in sacreBLEU.
        plain = " ".join(text.splitlines())
        return plain.lower() if self._config.lowercase else plain

    def restore(self, text: str) -> str:
        """Turn a preprocessed sentence, such as a model writes, into plain text."""
        return self._moses.detokenize(text) if self._moses and self._tokenizes else text
