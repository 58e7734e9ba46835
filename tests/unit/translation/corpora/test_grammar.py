import random
import re
from collections import Counter
from functools import cache
from itertools import chain, combinations, product

import pytest
import sacrebleu

from admin_init.translation.corpora.synthetic.grammar import (
    Grammar,
    SentencePair,
    Size,
    Split,
    _as_sentence,
    embedded_corpus,
    split_of,
)
from admin_init.translation.corpora.synthetic.lexicon import LARGE, NUMBERS, SMALL, Lexicon

SIZES: tuple[Size, ...] = ("small", "large")
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
LEXICONS = {"small": SMALL, "large": LARGE}


@pytest.fixture(scope="module")
def grammars() -> dict[Size, Grammar]:
    return {size: Grammar(size) for size in SIZES}


@pytest.fixture(scope="module")
def samples(grammars: dict[Size, Grammar]) -> dict[Size, list[SentencePair]]:
    rng = random.Random(20)
    return {size: [grammars[size].sample(rng) for _ in range(5_000)] for size in SIZES}


def translations(grammar: Grammar, source: str) -> list[str]:
    """The German of every derivation that the grammar has for an English sentence."""
    words = re.sub(r"\ban\b", "a", (source[0].lower() + source[1:]).rstrip(".").replace(",", " ,"))
    found = parses(grammar, "sentence", tuple(words.split()))
    return [_as_sentence(target[""]) for target, rest in found if not rest]


@cache
def parses(
    grammar: Grammar, symbol: str, words: tuple[str, ...]
) -> list[tuple[dict[str, str], tuple[str, ...]]]:
    found = []
    for rule in grammar.rules[symbol]:
        states: list[tuple[dict[str, str], tuple[str, ...]]] = [({}, words)]
        for token in tokens(rule.source):
            field = token.strip("{}")
            if field not in rule.slots:
                states = [(pieces, rest[1:]) for pieces, rest in states if rest[:1] == (token,)]
                continue
            states = [
                (pieces | {name or field: text for name, text in new.items()}, tail)
                for pieces, rest in states
                for new, tail in parses(grammar, rule.slots[field], rest)
            ]
        found += [
            ({name: text.format_map(pieces) for name, text in rule.target.items()}, rest)
            for pieces, rest in states
        ]
    return found


@cache
def tokens(template: str) -> tuple[str, ...]:
    return tuple(template.replace(",", " ,").split())


NOUN_PHRASES = """
    the old man       | der alte Mann        | den alten Mann       | dem alten Mann
    the old queen     | die alte Königin     | die alte Königin     | der alten Königin
    the old horse     | das alte Pferd       | das alte Pferd       | dem alten Pferd
    the old men       | die alten Männer     | die alten Männer     | den alten Männern
    the old queens    | die alten Königinnen | die alten Königinnen | den alten Königinnen
    the old horses    | die alten Pferde     | die alten Pferde     | den alten Pferden
    an old man        | ein alter Mann       | einen alten Mann     | einem alten Mann
    an old queen      | eine alte Königin    | eine alte Königin    | einer alten Königin
    an old horse      | ein altes Pferd      | ein altes Pferd      | einem alten Pferd
    some old teachers | einige alte Lehrer   | einige alte Lehrer   | einigen alten Lehrern
    some old women    | einige alte Frauen   | einige alte Frauen   | einigen alten Frauen
    some old children | einige alte Kinder   | einige alte Kinder   | einigen alten Kindern
"""
MORE_NOUN_PHRASES = """
    this old king     | dieser alte König    | diesen alten König   | diesem alten König
    this old queen    | diese alte Königin   | diese alte Königin   | dieser alten Königin
    this old girl     | dieses alte Mädchen  | dieses alte Mädchen  | diesem alten Mädchen
    these old babies  | diese alten Babys    | diese alten Babys    | diesen alten Babys
    my old king       | mein alter König     | meinen alten König   | meinem alten König
    my old queen      | meine alte Königin   | meine alte Königin   | meiner alten Königin
    my old horse      | mein altes Pferd     | mein altes Pferd     | meinem alten Pferd
    my old daughters  | meine alten Töchter  | meine alten Töchter  | meinen alten Töchtern
    some old girls    | einige alte Mädchen  | einige alte Mädchen  | einigen alten Mädchen
"""


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


@pytest.mark.parametrize(
    ("size", "row"),
    [(size, row) for size in SIZES for row in rows(NOUN_PHRASES)]
    + [("large", row) for row in rows(MORE_NOUN_PHRASES)],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
@pytest.mark.parametrize("adjective", [True, False], ids=["adjective", "bare"])
def test_articles_adjectives_and_nouns_agree(
    grammars: dict[Size, Grammar], size: Size, row: list[str], adjective: bool
) -> None:
    if not adjective:
        row = [re.sub(r" (old|alt\w*)", "", cell) for cell in row]
        row[0] = re.sub(r"^an\b", "a", row[0])
    english, nominative, accusative, dative = row
    plural = english.split()[-1] in {"men", "women", "children"} or english.endswith("s")
    sees, sieht = ("see", "sehen") if plural else ("sees", "sieht")
    expected = {
        f"{english} {sees} the dog.": f"{nominative} {sieht} den Hund.",
        f"the dog sees {english}.": f"der Hund sieht {accusative}.",
        f"the dog helps {english}.": f"der Hund hilft {dative}.",
    }
    for source, target in expected.items():
        assert translations(grammars[size], source) == [target[0].upper() + target[1:]]


SMALL_SENTENCES = """
    The small dog sees the cat.
    Der kleine Hund sieht die Katze.
    Today the small dog sees the cat.
    Heute sieht der kleine Hund die Katze.
    The man finds an old letter today.
    Der Mann findet heute einen alten Brief.
    In the garden the small dogs see some cats.
    Im Garten sehen die kleinen Hunde einige Katzen.
    Sometimes the queen gives a flower to the teacher.
    Manchmal gibt die Königin dem Lehrer eine Blume.
    The women show the pictures to some children.
    Die Frauen zeigen einigen Kindern die Bilder.
    The teacher speaks with the horses in the city.
    Der Lehrer spricht mit den Pferden in der Stadt.
    Behind a house a child thanks the men.
    Hinter einem Haus dankt ein Kind den Männern.
"""
LARGE_SENTENCES = """
    The doctor calls my brother.
    Der Arzt ruft meinen Bruder an.
    Today the doctor calls my brother in the library.
    Heute ruft der Arzt meinen Bruder in der Bibliothek an.
    The doctor must call my brother now.
    Der Arzt muss jetzt meinen Bruder anrufen.
    The cow sleeps because the doctor calls my brother.
    Die Kuh schläft, weil der Arzt meinen Bruder anruft.
    The cows sleep although the doctors can call my brother in the tower.
    Die Kühe schlafen, obwohl die Ärzte meinen Bruder im Turm anrufen können.
    When the bird sings, the witch falls asleep in this kitchen.
    Wenn der Vogel singt, schläft die Hexe in dieser Küche ein.
    Before the pig comes back, the friends should wait for the ghost.
    Bevor das Schwein zurückkommt, sollen die Freunde auf das Gespenst warten.
    The nurse believes that the painters look at the blue car.
    Die Krankenschwester glaubt, dass die Maler das blaue Auto ansehen.
    On Monday these fathers say that the baby may dream of the man often.
    Am Montag sagen diese Väter, dass das Baby oft vom Mann träumen darf.
    Next to an old church the girls must thank the king every day.
    Neben einer alten Kirche müssen die Mädchen jeden Tag dem König danken.
    The man finds an apple in the forest today.
    Der Mann findet heute einen Apfel im Wald.
    In front of the theatre the mother returns the newspapers to the aunt tonight.
    Vor dem Theater gibt die Mutter heute Abend der Tante die Zeitungen zurück.
"""


def pairs(table: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in table.strip().splitlines()]
    return list(zip(lines[::2], lines[1::2], strict=True))


@pytest.mark.parametrize(
    ("size", "source", "target"),
    [(size, *pair) for size in SIZES for pair in pairs(SMALL_SENTENCES)]
    + [("large", *pair) for pair in pairs(LARGE_SENTENCES)],
)
def test_sentences_as_a_german_writes_them(
    grammars: dict[Size, Grammar], size: Size, source: str, target: str
) -> None:
    assert translations(grammars[size], source) == [target]


@pytest.mark.parametrize("size", SIZES)
def test_the_second_constituent_is_a_verb_that_agrees_with_the_subject(
    samples: dict[Size, list[SentencePair]], size: Size
) -> None:
    lexicon = LEXICONS[size]
    verbs = [*chain(*lexicon.verbs.values()), *lexicon.modals, *lexicon.reports]
    finite = {number: {verb.german(number)[0] for verb in verbs} for number in NUMBERS}
    numbers = {getattr(being, n): n for being in lexicon.nouns["being"] for n in NUMBERS}
    times = "|".join(sorted(lexicon.times.values(), key=len, reverse=True))
    constituent = rf"(?:{times}|(?:[a-zäöüß]+ ){{1,3}}[A-ZÄÖÜ]\w+) "
    seen: Counter[tuple[str, str]] = Counter()
    for source, target in samples[size]:
        subject = re.sub(r"^(when|because|although|before) .*?, ", "", source, flags=re.I)
        number = next(numbers[word] for word in re.findall(r"\w+", subject) if word in numbers)
        if subject == source:
            rest, replaced = re.subn(f"^{constituent}", "", target[0].lower() + target[1:])
            assert replaced, target
        else:
            _, _, rest = target.partition(", ")
        assert re.match(r"\w+", rest)[0] in finite[number], target  # type: ignore[index]
        seen[source.split()[0], number] += 1
    fronted = ["The", "Today", "Behind", *(["When", "Next"] if size == "large" else [])]
    assert min(seen[word, number] for word in fronted for number in NUMBERS) > 20


def ends_of(lexicon: Lexicon, clause: str) -> tuple[str, str]:
    """How the German of an English clause ends, as a main and as a subordinate clause (pattern)."""
    verbs = chain(*lexicon.verbs.values())
    forms = {getattr(verb, number): (verb, number) for verb in verbs for number in NUMBERS}
    modals = {modal.plural: modal for modal in lexicon.modals}
    words = clause.split()
    position = next(i for i, word in enumerate(words) if word in forms)
    verb, number = forms[words[position]]
    if modal := modals.get(words[position - 1]):
        infinitive = verb.german_plural.replace("|", "")
        return infinitive, f"{infinitive} (?:{modal.german_singular}|{modal.german_plural})"
    finite, prefix = verb.german(number)
    return prefix, prefix + finite


def test_infinitives_and_separable_prefixes_end_a_main_clause(
    samples: dict[Size, list[SentencePair]],
) -> None:
    ends: Counter[str] = Counter()
    for source, target in samples["large"]:
        if "," not in target:
            end, _ = ends_of(LARGE, source.rstrip("."))
            assert target.endswith(f" {end}." if end else "."), target
            ends[end] += 1
    assert {"an", "auf", "aus", "ein", "mit", "zu", "zurück", "anrufen", "sehen"} <= set(ends)


def test_the_verb_ends_a_subordinate_clause(samples: dict[Size, list[SentencePair]]) -> None:
    seen: Counter[str] = Counter()
    for source, target in samples["large"]:
        english = re.search(r"\b(because|although|when|before|that) (.*?)[,.]", source, re.I)
        german = re.search(r"\b(weil|obwohl|wenn|bevor|dass) (.*?)[,.]", target, re.I)
        assert (english is None) == (german is None)
        if english and german:
            _, end = ends_of(LARGE, english[2])
            assert re.search(f" {end}$", german[2]), target
            seen[german[1]] += 1
    assert min(seen.values()) > 100
    assert len(seen) == 9, "four conjunctions within and at the start of a sentence, and `dass`"


@pytest.mark.parametrize("size", SIZES)
def test_sentences_are_written_properly(
    samples: dict[Size, list[SentencePair]], size: Size
) -> None:
    for text in (text for pair in samples[size] for text in pair):
        assert re.fullmatch(r"[A-Z][A-Za-zäöüÄÖÜß]*(,? [A-Za-zäöüÄÖÜß]+)+\.", text), text
        assert not re.search(r"\b(in|von) dem\b|\ba [aeiou]|\ban [^aeiou]", text, re.I), text


@pytest.mark.parametrize("size", SIZES)
def test_every_sentence_has_one_derivation_and_one_translation(
    grammars: dict[Size, Grammar], samples: dict[Size, list[SentencePair]], size: Size
) -> None:
    for source, target in samples[size][:50]:
        assert translations(grammars[size], source) == [target]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(10))
def test_count_is_that_of_an_enumeration(size: Size, seed: int) -> None:
    grammar = Grammar(size)
    rng = random.Random(seed)
    for symbol, rules in grammar.rules.items():
        grammar.rules[symbol] = rng.sample(rules, min(len(rules), rng.choice((1, 1, 2))))

    def sources(symbol: str) -> list[str]:
        return [
            rule.source.format_map(dict(zip(rule.slots, words, strict=True)))
            for rule in grammar.rules[symbol]
            for words in product(*map(sources, rule.slots.values()))
        ]

    assert grammar.count() == len({" ".join(text.split()) for text in sources("sentence")})


@pytest.mark.parametrize("size", SIZES)
def test_there_are_a_million_distinct_pairs_and_more(
    grammars: dict[Size, Grammar], size: Size
) -> None:
    assert grammars[size].count() >= 1_000_000
    rng = random.Random(7)
    drawn = 40_000
    repeated = sum(
        n * (n - 1) // 2
        for n in Counter(grammars[size].sample(rng).source for _ in range(drawn)).values()
    )
    # The birthday problem: draws from n sentences have at least draws^2 / 2n equal pairs.
    assert drawn**2 / 2 / max(repeated, 1) >= 1_000_000


def test_small_is_small_and_large_has_twice_the_words(
    samples: dict[Size, list[SentencePair]],
) -> None:
    types = {
        (size, side): len(set(re.findall(r"\w+", " ".join(p[side] for p in samples[size]).lower())))
        for size, side in product(SIZES, (0, 1))
    }
    assert types["small", 0] + types["small", 1] <= 250
    assert types["large", 1] >= 400
    lengths = [len(pair.source.split()) for pair in samples["small"]]
    assert 6 <= sum(lengths) / len(lengths) <= 10
    assert max(lengths) <= 14


def word_by_word(lexicon: Lexicon, source: str) -> str:
    """Each English word or set phrase replaced by its German one of a dictionary."""
    dictionary = {
        "that": "dass", "with": "mit", "to": "zu", "for": "für", "of": "von", "at": "an",
        "up": "auf", "back": "zurück", "asleep": "ein", "an": "ein",
    }  # fmt: skip
    dictionary |= lexicon.times | lexicon.prepositions | lexicon.conjunctions
    for determiner in lexicon.determiners:
        dictionary[determiner.plural] = determiner.german("nominative", "plural", "m")[0]
        dictionary[determiner.singular] = determiner.german("nominative", "singular", "m")[0]
    dictionary |= dict(chain(*(words.items() for words in lexicon.adjectives.values())))
    for noun in chain(*lexicon.nouns.values()):
        dictionary[noun.singular] = noun.german_singular
        dictionary[noun.plural] = noun.german_plural
    for verb in (*chain(*lexicon.verbs.values()), *lexicon.modals, *lexicon.reports):
        dictionary[verb.plural] = verb.german_plural.replace("|", "")
        dictionary[verb.singular] = verb.german_singular
    phrases = "|".join(sorted(dictionary, key=len, reverse=True))
    text = re.sub(
        rf"\b({phrases})\b", lambda match: dictionary[match[1]], source[0].lower() + source[1:]
    )
    return text[0].upper() + text[1:]


@pytest.mark.parametrize("size", SIZES)
def test_a_word_by_word_translation_is_poor(size: Size) -> None:
    test = embedded_corpus(size, train=0, valid=0, test=2_000)["test"]
    guesses = [word_by_word(LEXICONS[size], pair.source) for pair in test]
    assert not re.search(r"\b(the|some|sees|dogs?|old|behind)\b", " ".join(guesses))
    bleu = sacrebleu.corpus_bleu(guesses, [[pair.target for pair in test]])
    assert bleu.score < 20


@pytest.mark.parametrize("size", SIZES)
def test_no_sentence_is_in_two_splits_or_twice_in_one(size: Size) -> None:
    numbers = {"train": 3_000, "valid": 300, "test": 200}
    corpora = [embedded_corpus(size, seed=seed, **numbers) for seed in (1, 2)]
    for corpus in corpora:
        for split, sentences in corpus.items():
            assert len({pair.source for pair in sentences}) == numbers[split] == len(sentences)
            assert {split_of(pair.source) for pair in sentences} == {split}
    splits = {
        split: {pair.source for corpus in corpora for pair in corpus[split]} for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not splits[one] & splits[other]


def test_a_longer_split_begins_with_the_shorter_one() -> None:
    short = embedded_corpus(seed=5, train=100, valid=10, test=10)
    long = embedded_corpus(seed=5, train=300, valid=10, test=50)
    assert long["train"][:100] == short["train"]
    assert long["test"][:10] == short["test"]


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"`size` must be one of .*'medium'"):
        Grammar("medium")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`valid` must be at least 0 pairs, but is -1"):
        embedded_corpus(valid=-1)
