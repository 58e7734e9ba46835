"""Synchronous grammar that generates English sentences and their German translations.

The grammar derives both languages at once, so every translation is correct by construction, and
no download is needed. The difficulty is in the German: articles and adjectives agree in gender,
case and number; the finite verb comes second, and its infinitive or separable prefix last; a
subordinate clause has the whole verb at its end.
"""

import random
import re
import zlib
from collections.abc import Iterator
from itertools import chain, product
from math import prod
from string import Formatter
from typing import Literal, NamedTuple

from admin_init.translation.corpora.synthetic.lexicon import CASES, LARGE, NUMBERS, SMALL, Lexicon

Size = Literal["small", "large"]
Split = Literal["train", "valid", "test"]
_LEXICONS = {"small": SMALL, "large": LARGE}

_SIMPLE_SENTENCES = {"{main}": "{main}"}
_SIMPLE_CLAUSES = {
    "main": {
        "{subject} {predicate}": "{subject} {finite} {middle} {end}",
        "{subject} {predicate} {place}": "{subject} {finite} {middle} {place} {end}",
        "{subject} {predicate} {time}": "{subject} {finite} {time} {middle} {end}",
        "{time} {subject} {predicate}": "{time} {finite} {subject} {middle} {end}",
        "{place} {subject} {predicate}": "{place} {finite} {subject} {middle} {end}",
    },
}
_COMPLEX_SENTENCES = {
    "{main} {conjunction} {subordinate}": "{main}, {conjunction} {subordinate}",
    "{conjunction} {subordinate}, {inverted}": "{conjunction} {subordinate}, {inverted}",
    "{reporting} that {subordinate}": "{reporting}, dass {subordinate}",
}
_COMPLEX_CLAUSES = {
    "main": {
        "{subject} {predicate} {place} {time}": "{subject} {finite} {time} {middle} {place} {end}",
        "{time} {subject} {predicate} {place}": "{time} {finite} {subject} {middle} {place} {end}",
        "{place} {subject} {predicate} {time}": "{place} {finite} {subject} {time} {middle} {end}",
    },
    "subordinate": {
        "{subject} {predicate}": "{subject} {middle} {final}",
        "{subject} {predicate} {place}": "{subject} {middle} {place} {final}",
        "{subject} {predicate} {time}": "{subject} {time} {middle} {final}",
    },
    # After a subordinate clause, which is the first constituent, the finite verb comes first.
    "inverted": {
        "{subject} {predicate}": "{finite} {subject} {middle} {end}",
        "{subject} {predicate} {place}": "{finite} {subject} {middle} {place} {end}",
        "{subject} {predicate} {time}": "{finite} {subject} {time} {middle} {end}",
    },
    "reporting": {
        "{subject} {report}": "{subject} {report}",
        "{time} {subject} {report}": "{time} {report} {subject}",
    },
}


class SentencePair(NamedTuple):
    """An English sentence and its German translation."""

    source: str
    target: str


class Rule(NamedTuple):
    """A rule that rewrites a symbol in both languages; fields in braces are rewritten next."""

    symbol: str
    source: str
    target: dict[str, str]
    """German text in named pieces; a text that is never split is a single piece, named ``""``.

    A verb with its objects has four pieces, as in *ruft | den Mann | an | anruft*. Main clauses use
    the first three (finite, middle, end), subordinate clauses the second and the last (middle,
    final).
    """
    slots: dict[str, str]
    """The symbol of each field of ``source``."""


class Grammar:
    """The grammar of the embedded corpus, in one of two sizes.

    ``"small"`` has only main clauses of about eight words. ``"large"`` has over three times the
    vocabulary, modal and separable verbs, and subordinate clauses.

    Args:
        size: ``"small"`` or ``"large"``.

    Raises:
        ValueError: The size is unknown.

    Examples:
        >>> Grammar("small").sample(random.Random(1)).source
        'Sometimes the teachers help the queen.'
    """

    def __init__(self, size: Size = "small") -> None:
        if size not in _LEXICONS:
            raise ValueError(f"`size` must be one of {sorted(_LEXICONS)}, but is {size!r}.")
        lexicon = _LEXICONS[size]
        self.rules: dict[str, list[Rule]] = {}
        for rule in chain(_noun_phrases(lexicon), _predicates(lexicon), _sentences(lexicon)):
            self.rules.setdefault(rule.symbol, []).append(rule)

    def count(self) -> int:
        """Count the distinct pairs exactly: every English sentence has one derivation only."""
        counts: dict[str, int] = {}

        def count(symbol: str) -> int:
            if symbol not in counts:
                counts[symbol] = sum(
                    prod(map(count, rule.slots.values())) for rule in self.rules[symbol]
                )
            return counts[symbol]

        return count("sentence")

    def sample(self, rng: random.Random) -> SentencePair:
        """Draw a random pair. All rules of a symbol are equally likely.

        Args:
            rng: Random generator; the same seed gives the same pairs in every version of Python.
        """
        source, target = self._derive("sentence", rng)
        return SentencePair(_as_sentence(source), _as_sentence(target[""]))

    def _derive(self, symbol: str, rng: random.Random) -> tuple[str, dict[str, str]]:
        rules = self.rules[symbol]
        # Python promises a stable sequence of random numbers only for the method `random`.
        rule = rules[int(rng.random() * len(rules))]
        source: dict[str, str] = {}
        target: dict[str, str] = {}
        for field, child in rule.slots.items():
            source[field], pieces = self._derive(child, rng)
            target.update({name or field: text for name, text in pieces.items()})
        return rule.source.format_map(source), {
            name: template.format_map(target) for name, template in rule.target.items()
        }


def embedded_corpus(
    size: Size = "small", *, seed: int = 1, train: int = 20_000, valid: int = 500, test: int = 1_000
) -> dict[Split, list[SentencePair]]:
    """Generate distinct sentence pairs in three splits.

    The split of a pair depends on the English sentence alone (see :func:`split_of`), so two splits
    never share a sentence, whatever their sizes and seeds.

    Args:
        size: ``"small"`` or ``"large"``, see :class:`Grammar`.
        seed: Seed of the random generator.
        train: Number of training pairs.
        valid: Number of validation pairs.
        test: Number of test pairs.

    Returns:
        ``{"train": [...], "valid": [...], "test": [...]}``. With the same seed, a larger split
        begins with the pairs of a smaller one.

    Raises:
        ValueError: The size is unknown or a number of pairs is negative.
    """
    wanted: dict[Split, int] = {"train": train, "valid": valid, "test": test}
    for name, number in wanted.items():
        if number < 0:
            raise ValueError(f"`{name}` must be at least 0 pairs, but is {number}.")
    grammar = Grammar(size)
    rng = random.Random(seed)
    corpus: dict[Split, dict[str, SentencePair]] = {name: {} for name in wanted}
    while any(len(corpus[name]) < number for name, number in wanted.items()):
        pair = grammar.sample(rng)
        split = split_of(pair.source)
        if len(corpus[split]) < wanted[split]:
            corpus[split].setdefault(pair.source, pair)
    return {name: list(pairs.values()) for name, pairs in corpus.items()}


def split_of(source: str) -> Split:
    """Return the split of an English sentence; a tenth of all sentences is test, a tenth valid."""
    held_out: dict[int, Split] = {0: "test", 1: "valid"}
    return held_out.get(zlib.crc32(source.encode()) % 10, "train")


def _as_sentence(words: str) -> str:
    """Write words as a sentence: *a old* becomes *an old*, *in dem* becomes *im*."""
    text = " ".join(words.split()).replace(" ,", ",")
    text = re.sub(r"\ba(?= [aeiou])", "an", text)
    text = re.sub(r"\b(i|vo)n dem\b", r"\1m", text)
    return text[0].upper() + text[1:] + "."


def _rule(
    symbol: str, source: str, target: str | dict[str, str] | None = None, **slots: str
) -> Rule:
    """Build a rule; the default target is ``source``, the default symbol of a field its name."""
    fields = [field for _, field, _, _ in Formatter().parse(source) if field]
    pieces = target if isinstance(target, dict) else {"": source if target is None else target}
    return Rule(symbol, source, pieces, {field: slots.get(field, field) for field in fields})


def _noun_phrases(lexicon: Lexicon) -> Iterator[Rule]:
    for kind, case, number in product(lexicon.nouns, CASES, NUMBERS):
        symbol = f"{kind}_{case}_{number}"
        yield _rule(f"{kind}_{case}", f"{{{symbol}}}")
        for noun, determiner in product(lexicon.nouns[kind], lexicon.determiners):
            the, name = getattr(determiner, number), getattr(noun, number)
            article, ending = determiner.german(case, number, noun.gender)
            german = noun.german(case, number)
            yield _rule(symbol, f"{the} {name}", f"{article} {german}")
            if lexicon.adjectives[kind]:
                yield _rule(
                    symbol,
                    f"{the} {{adjective}} {name}",
                    f"{article} {{adjective}} {german}",
                    adjective=f"{kind}_adjective_{ending}",
                )
    for kind, adjectives in lexicon.adjectives.items():
        for (english, stem), ending in product(adjectives.items(), ("e", "en", "er", "es")):
            yield _rule(f"{kind}_adjective_{ending}", english, stem + ending)
    for kind, case in product(("being", "thing"), CASES):
        yield _rule(f"either_{case}", f"{{{kind}_{case}}}")


def _predicates(lexicon: Lexicon) -> Iterator[Rule]:
    for (frame, verbs), number in product(lexicon.verbs.items(), NUMBERS):
        symbol = f"predicate_{number}"
        for verb in verbs:
            finite, prefix = verb.german(number)
            yield _rule(
                symbol,
                f"{getattr(verb, number)} {frame.source}",
                _pieces(finite, frame.target, prefix, prefix + finite),
            )
            if lexicon.modals:
                infinitive = verb.german_plural.replace("|", "")
                yield _rule(
                    symbol,
                    f"{{modal}} {verb.plural} {frame.source}",
                    _pieces("{modal}", frame.target, infinitive, infinitive + " {modal}"),
                    modal=f"modal_{number}",
                )
    for modal, number in product(lexicon.modals, NUMBERS):
        yield _rule(f"modal_{number}", getattr(modal, number), modal.german(number)[0])


def _pieces(finite: str, middle: str, end: str, final: str) -> dict[str, str]:
    return {"finite": finite, "middle": middle, "end": end, "final": final}


def _sentences(lexicon: Lexicon) -> Iterator[Rule]:
    for english, german in lexicon.times.items():
        yield _rule("time", english, german)
    for english, german in lexicon.prepositions.items():
        yield _rule("place", f"{english} {{place_dative}}", f"{german} {{place_dative}}")
    for report, number in product(lexicon.reports, NUMBERS):
        yield _rule(f"report_{number}", getattr(report, number), report.german(number)[0])
    for english, german in lexicon.conjunctions.items():
        yield _rule("conjunction", english, german)
    yield from _clauses(_SIMPLE_SENTENCES, _SIMPLE_CLAUSES)
    if lexicon.conjunctions:
        yield from _clauses(_COMPLEX_SENTENCES, _COMPLEX_CLAUSES)


def _clauses(sentences: dict[str, str], clauses: dict[str, dict[str, str]]) -> Iterator[Rule]:
    for source, target in sentences.items():
        yield _rule("sentence", source, target)
    for (symbol, orders), number in product(clauses.items(), NUMBERS):
        for source, target in orders.items():
            yield _rule(
                symbol,
                source,
                target,
                subject=f"being_nominative_{number}",
                predicate=f"predicate_{number}",
                report=f"report_{number}",
            )
