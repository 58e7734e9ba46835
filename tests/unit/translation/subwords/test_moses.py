import sys

import pytest

from admin_init.errors import MissingExtraError
from admin_init.translation.subwords.moses import Moses


def test_tokenizes_as_the_language_needs() -> None:
    assert Moses("en").tokenize("It's Mr. Smith's dog.") == "It &apos;s Mr. Smith &apos;s dog ."
    assert Moses("fr").tokenize("L'homme n'est pas là.") == "L&apos; homme n&apos; est pas là ."


def test_hyphens() -> None:
    moses = Moses("en")
    assert moses.tokenize("a well-known man") == "a well-known man"
    assert moses.tokenize("a well-known man", aggressive_hyphens=True) == "a well @-@ known man"


@pytest.mark.parametrize(
    "text", ["It's Mr. Smith's well-known dog.", 'He said, "yes & no" (5 < 6 | [7])...']
)
def test_detokenizing_undoes_tokenizing(text: str) -> None:
    moses = Moses("en")
    assert moses.detokenize(moses.tokenize(text, aggressive_hyphens=True)) == text


def test_normalizes_as_the_perl_scripts() -> None:
    """What normalize-punctuation.perl -l de | remove-non-printing-char.perl prints."""
    assert Moses("de").normalize("„Ja“ \u2013 sagte…  er\u2019s\u200bam\tEnde „nun.“") == (
        '"Ja" - sagte... er\'s am Ende "nun".'
    )


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(MissingExtraError) as caught:
        Moses("en")
    message = "sacremoses is not installed. Run `pip install 'admin-init[wmt]'`."
    assert str(caught.value) == message
