"""Words of the embedded English-German corpus, with their inflection.

The tables are plain text, so that the German can be checked without reading Python.
The infinitive of every German verb equals its third person plural, the dative plural of every noun
follows from its plural, and every adjective has regular endings. Words that break these rules are
left out, and so are English words with two German translations.
"""

from dataclasses import dataclass
from typing import NamedTuple

CASES = ("nominative", "accusative", "dative")
NUMBERS = ("singular", "plural")


class Noun(NamedTuple):
    """A noun: English ``singular`` and ``plural``, then ``gender`` and both forms in German."""

    singular: str
    plural: str
    gender: str
    german_singular: str
    german_plural: str

    def german(self, case: str, number: str) -> str:
        """Return the German form. Only the dative plural differs from the nominative, by an -n."""
        if number == "singular":
            return self.german_singular
        takes_n = case == "dative" and self.german_plural[-1] not in "ns"
        return self.german_plural + "n" * takes_n


class Verb(NamedTuple):
    """A verb in the third person: English and German, singular first.

    The German plural is also the infinitive. A bar separates a separable prefix: ``an|rufen``.
    """

    singular: str
    plural: str
    german_singular: str
    german_plural: str

    def german(self, number: str) -> tuple[str, str]:
        """Return the finite form and the separable prefix, or ``""`` if the verb has none."""
        prefix, _, plural = self.german_plural.rpartition("|")
        return (self.german_singular if number == "singular" else plural), prefix


class Determiner(NamedTuple):
    """A determiner: its English forms, its German forms, and the adjective endings after it.

    The rows of ``forms`` and ``endings`` are cases; the columns are masculine, feminine, neuter and
    plural.
    """

    singular: str
    plural: str
    forms: tuple[str, str, str]
    endings: tuple[str, str, str]

    def german(self, case: str, number: str, gender: str) -> tuple[str, str]:
        """Return the German form and the ending of an adjective that follows."""
        row = CASES.index(case)
        column = "mfn".index(gender) if number == "singular" else 3
        return self.forms[row].split()[column], self.endings[row].split()[column]


class Frame(NamedTuple):
    """The objects of a verb in both languages; braces name noun phrases by kind and case."""

    source: str
    target: str


def _nouns(table: str) -> tuple[Noun, ...]:
    return tuple(Noun(*word.split()) for word in table.split(","))


def _verbs(table: str) -> tuple[Verb, ...]:
    return tuple(Verb(*word.split()) for word in table.split(","))


def _pairs(table: str) -> dict[str, str]:
    return dict(pair.strip().split(": ") for pair in table.split(","))


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Words of one size of the grammar. The keys of every mapping are English."""

    determiners: tuple[Determiner, ...]
    nouns: dict[str, tuple[Noun, ...]]
    """Nouns by kind: a ``being`` can be the subject, a ``thing`` is an object, a ``place`` says
    where."""
    adjectives: dict[str, dict[str, str]]
    """Adjectives by the kind of noun that they describe; the German is without endings."""
    verbs: dict[Frame, tuple[Verb, ...]]
    modals: tuple[Verb, ...]
    prepositions: dict[str, str]
    """Prepositions of place; in German they take the dative."""
    times: dict[str, str]
    conjunctions: dict[str, str]
    """Subordinating conjunctions; without any, the grammar has main clauses only."""
    reports: tuple[Verb, ...]
    """Verbs of saying and thinking, followed by a ``that`` clause."""


_THE = Determiner(
    "the",
    "the",
    ("der die das die", "den die das die", "dem der dem den"),
    ("e e e en", "en e e en", "en en en en"),
)
_A = Determiner(
    "a",
    "some",
    ("ein eine ein einige", "einen eine ein einige", "einem einer einem einigen"),
    ("er e es e", "en e es e", "en en en en"),
)
_THIS = Determiner(
    "this",
    "these",
    ("dieser diese dieses diese", "diesen diese dieses diese", "diesem dieser diesem diesen"),
    ("e e e en", "en e e en", "en en en en"),
)
_MY = Determiner(
    "my",
    "my",
    ("mein meine mein meine", "meinen meine mein meine", "meinem meiner meinem meinen"),
    ("er e es en", "en e es en", "en en en en"),
)

_ADJECTIVES = _pairs("""
    small: klein, big: groß, old: alt, new: neu, beautiful: schön, strange: seltsam
""")

_SEE = Frame("{either_accusative}", "{either_accusative}")
_BUY = Frame("{thing_accusative}", "{thing_accusative}")
_MEET = Frame("{being_accusative}", "{being_accusative}")
_HELP = Frame("{being_dative}", "{being_dative}")
_GIVE = Frame("{thing_accusative} to {being_dative}", "{being_dative} {thing_accusative}")
_PLAY = Frame("with {being_dative}", "mit {being_dative}")
_WAIT = Frame("for {either_accusative}", "auf {either_accusative}")
_DREAM = Frame("of {either_dative}", "von {either_dative}")
_LOOK = Frame("at {either_accusative}", "{either_accusative}")
_LISTEN = Frame("to {being_dative}", "{being_dative}")
_PICK = Frame("up {thing_accusative}", "{thing_accusative}")
_SLEEP = Frame("", "")
_FALL = Frame("asleep", "")
_COME = Frame("back", "")
_WAKE = Frame("up", "")

SMALL = Lexicon(
    determiners=(_THE, _A),
    nouns={
        "being": _nouns("""
            man men m Mann Männer, dog dogs m Hund Hunde, teacher teachers m Lehrer Lehrer,
            woman women f Frau Frauen, cat cats f Katze Katzen, queen queens f Königin Königinnen,
            child children n Kind Kinder, horse horses n Pferd Pferde
        """),
        "thing": _nouns("""
            key keys m Schlüssel Schlüssel, letter letters m Brief Briefe,
            lamp lamps f Lampe Lampen, flower flowers f Blume Blumen, book books n Buch Bücher,
            picture pictures n Bild Bilder
        """),
        "place": _nouns("""
            garden gardens m Garten Gärten, forest forests m Wald Wälder,
            city cities f Stadt Städte, school schools f Schule Schulen, house houses n Haus Häuser,
            village villages n Dorf Dörfer
        """),
    },
    adjectives={"being": _ADJECTIVES, "thing": _ADJECTIVES, "place": {}},
    verbs={
        _SEE: _verbs("sees see sieht sehen, finds find findet finden, loves love liebt lieben"),
        _BUY: _verbs("buys buy kauft kaufen, carries carry trägt tragen"),
        _HELP: _verbs("helps help hilft helfen, thanks thank dankt danken"),
        _GIVE: _verbs("gives give gibt geben, shows show zeigt zeigen"),
        _PLAY: _verbs("plays play spielt spielen, speaks speak spricht sprechen"),
    },
    modals=(),
    prepositions=_pairs("in: in, behind: hinter"),
    times=_pairs("today: heute, tomorrow: morgen, now: jetzt, sometimes: manchmal"),
    conjunctions={},
    reports=(),
)

LARGE = Lexicon(
    determiners=(_THE, _A, _THIS, _MY),
    nouns={
        "being": SMALL.nouns["being"]
        + _nouns("""
            king kings m König Könige, friend friends m Freund Freunde,
            brother brothers m Bruder Brüder, son sons m Sohn Söhne, father fathers m Vater Väter,
            doctor doctors m Arzt Ärzte, bird birds m Vogel Vögel, painter painters m Maler Maler,
            mother mothers f Mutter Mütter, daughter daughters f Tochter Töchter,
            sister sisters f Schwester Schwestern, aunt aunts f Tante Tanten,
            nurse nurses f Krankenschwester Krankenschwestern, cow cows f Kuh Kühe,
            witch witches f Hexe Hexen, pig pigs n Schwein Schweine, girl girls n Mädchen Mädchen,
            baby babies n Baby Babys, ghost ghosts n Gespenst Gespenster
        """),
        "thing": SMALL.nouns["thing"]
        + _nouns("""
            apple apples m Apfel Äpfel, table tables m Tisch Tische, chair chairs m Stuhl Stühle,
            hat hats m Hut Hüte, coat coats m Mantel Mäntel, spoon spoons m Löffel Löffel,
            cup cups f Tasse Tassen, fork forks f Gabel Gabeln, clock clocks f Uhr Uhren,
            newspaper newspapers f Zeitung Zeitungen, bottle bottles f Flasche Flaschen,
            bag bags f Tasche Taschen, shirt shirts n Hemd Hemden, knife knives n Messer Messer,
            bicycle bicycles n Fahrrad Fahrräder, egg eggs n Ei Eier, car cars n Auto Autos,
            gift gifts n Geschenk Geschenke
        """),
        "place": SMALL.nouns["place"]
        + _nouns("""
            park parks m Park Parks, church churches f Kirche Kirchen,
            castle castles n Schloss Schlösser, kitchen kitchens f Küche Küchen,
            shop shops m Laden Läden, tower towers m Turm Türme,
            factory factories f Fabrik Fabriken, library libraries f Bibliothek Bibliotheken,
            hospital hospitals n Krankenhaus Krankenhäuser, theatre theatres n Theater Theater
        """),
    },
    adjectives={
        "being": _ADJECTIVES
        | _pairs("""
            young: jung, clever: klug, friendly: freundlich, happy: glücklich, poor: arm,
            rich: reich, brave: mutig, good: gut, ugly: hässlich
        """),
        "thing": _ADJECTIVES
        | _pairs("""
            red: rot, blue: blau, green: grün, heavy: schwer, cheap: billig, broken: kaputt,
            white: weiß, good: gut, ugly: hässlich
        """),
        "place": _ADJECTIVES
        | _pairs("""
            quiet: ruhig, ugly: hässlich, dirty: schmutzig, famous: berühmt, modern: modern
        """),
    },
    verbs={
        _SEE: SMALL.verbs[_SEE]
        + _verbs("""
            paints paint malt malen, forgets forget vergisst vergessen, hears hear hört hören
        """),
        _BUY: SMALL.verbs[_BUY]
        + _verbs("""
            steals steal stiehlt stehlen, hides hide versteckt verstecken,
            brings bring bringt mit|bringen, chooses choose sucht aus|suchen
        """),
        _MEET: _verbs("""
            meets meet trifft treffen, greets greet grüßt grüßen, calls call ruft an|rufen,
            invites invite lädt ein|laden
        """),
        _HELP: SMALL.verbs[_HELP]
        + _verbs("""
            follows follow folgt folgen, answers answer antwortet antworten,
            trusts trust vertraut vertrauen
        """),
        _GIVE: SMALL.verbs[_GIVE]
        + _verbs("""
            sends send schickt schicken, sells sell verkauft verkaufen,
            returns return gibt zurück|geben, offers offer bietet an|bieten
        """),
        _PLAY: SMALL.verbs[_PLAY]
        + _verbs("dances dance tanzt tanzen, argues argue streitet streiten"),
        _WAIT: _verbs("waits wait wartet warten"),
        _DREAM: _verbs("dreams dream träumt träumen"),
        _LOOK: _verbs("looks look sieht an|sehen"),
        _LISTEN: _verbs("listens listen hört zu|hören"),
        _PICK: _verbs("picks pick hebt auf|heben"),
        _SLEEP: _verbs("""
            sleeps sleep schläft schlafen, works work arbeitet arbeiten, sings sing singt singen,
            laughs laugh lacht lachen, arrives arrive kommt an|kommen
        """),
        _FALL: _verbs("falls fall schläft ein|schlafen"),
        _COME: _verbs("comes come kommt zurück|kommen"),
        _WAKE: _verbs("wakes wake wacht auf|wachen"),
    },
    modals=_verbs("""
        can can kann können, must must muss müssen, should should soll sollen, may may darf dürfen
    """),
    prepositions=SMALL.prepositions | _pairs("next to: neben, in front of: vor"),
    times=SMALL.times
    | _pairs("every day: jeden Tag, often: oft, tonight: heute Abend, on Monday: am Montag"),
    conjunctions=_pairs("because: weil, although: obwohl, when: wenn, before: bevor"),
    reports=_verbs("""
        says say sagt sagen, believes believe glaubt glauben, hopes hope hofft hoffen,
        dreams dream träumt träumen
    """),
)
