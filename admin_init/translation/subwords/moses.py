"""The Moses tools, as sacremoses ports them to Python."""

from admin_init.errors import import_extra


class Moses:
    """Normalizes, tokenizes and detokenizes text of one language.

    Args:
        lang: The language, such as ``en``: it decides about apostrophes and abbreviations.

    Raises:
        MissingExtraError: sacremoses is not installed.
    """

    def __init__(self, lang: str) -> None:
        sacremoses = import_extra("wmt", "sacremoses")
        # With perl_parity, because the published data were made by the Perl scripts.
        self._normalizer = sacremoses.MosesPunctNormalizer(lang, perl_parity=True)
        self._tokenizer = sacremoses.MosesTokenizer(lang)
        self._detokenizer = sacremoses.MosesDetokenizer(lang)
        # Not sacremoses' remove_control_chars, which glues together what a tab had kept apart.
        self._non_printing = import_extra("wmt", "regex").compile(r"\p{C}")

    def normalize(self, text: str) -> str:
        """Return what ``normalize-punctuation.perl | remove-non-printing-char.perl`` would."""
        # A rule about full stops before quotation marks needs the end of the line.
        normalized: str = self._non_printing.sub(" ", self._normalizer.normalize(f"{text}\n"))
        return normalized

    def tokenize(self, text: str, *, aggressive_hyphens: bool = False) -> str:
        """Return what ``tokenizer.perl`` would: words with one space between, XML escaped.

        Args:
            text: A sentence.
            aggressive_hyphens: Whether to make ``well @-@ known`` of ``well-known``, as ``-a``.
        """
        tokens: str = self._tokenizer.tokenize(
            text, aggressive_dash_splits=aggressive_hyphens, return_str=True
        )
        return tokens

    def detokenize(self, text: str) -> str:
        """Return what ``detokenizer.perl`` would: plain text of the words."""
        plain: str = self._detokenizer.detokenize(text.split())
        return plain
