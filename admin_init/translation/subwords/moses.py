"""The Moses tools, in the Python port sacremoses."""

from admin_init.errors import import_extra


class Moses:
    """Normalizes, tokenizes and detokenizes text of one language.

    Args:
        lang: The language, such as ``en``. It determines the rules for apostrophes and
            abbreviations.

    Raises:
        MissingExtraError: sacremoses is not installed.

    Examples:
        >>> moses = Moses("en")
        >>> moses.tokenize("It's a well-known man.", aggressive_hyphens=True)
        'It &apos;s a well @-@ known man .'
        >>> moses.detokenize("It &apos;s a well @-@ known man .")
        "It's a well-known man."
    """

    def __init__(self, lang: str) -> None:
        sacremoses = import_extra("wmt", "sacremoses")
        # perl_parity: the published data were made with the Perl scripts.
        self._normalizer = sacremoses.MosesPunctNormalizer(lang, perl_parity=True)
        self._tokenizer = sacremoses.MosesTokenizer(lang)
        self._detokenizer = sacremoses.MosesDetokenizer(lang)
        # Not sacremoses' remove_control_chars, which joins words that only a tab separates.
        self._non_printing = import_extra("wmt", "regex").compile(r"\p{C}")

    def normalize(self, text: str) -> str:
        """Normalize like ``normalize-punctuation.perl | remove-non-printing-char.perl``."""
        # The rule for full stops before quotation marks needs the end of the line.
        normalized: str = self._non_printing.sub(" ", self._normalizer.normalize(f"{text}\n"))
        return normalized

    def tokenize(self, text: str, *, aggressive_hyphens: bool = False) -> str:
        """Tokenize like ``tokenizer.perl`` into words separated by spaces, escaped for XML.

        Args:
            text: A sentence.
            aggressive_hyphens: Whether to split ``well-known`` into ``well @-@ known``, like the
                option ``-a``.
        """
        tokens: str = self._tokenizer.tokenize(
            text, aggressive_dash_splits=aggressive_hyphens, return_str=True
        )
        return tokens

    def detokenize(self, text: str) -> str:
        """Join words into plain text like ``detokenizer.perl``."""
        plain: str = self._detokenizer.detokenize(text.split())
        return plain
