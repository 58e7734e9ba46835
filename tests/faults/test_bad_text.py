"""Texts that nobody expects: read right, or refused by name."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from _helpers.nasty_values import BROKEN, LINE, attempt, examine, fill
from hypothesis import strategies as st

from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.parallel import ParallelCorpus, ParallelFiles
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.translate import Translator

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

BYTES = st.one_of(LINE.map(str.encode), LINE.map(str.encode), BROKEN)
# Of these, most can be read.
TEXT = LINE.map(str.encode)
EQUAL = st.lists(st.tuples(TEXT, TEXT), max_size=5).map(
    lambda pairs: tuple(b"".join(pair[side] + b"\n" for pair in pairs) for side in (0, 1))
)
FILE = st.lists(BYTES, max_size=5).map(b"\n".join)


def is_utf8(line: bytes) -> bool:
    return line.decode("utf-8", "ignore").encode() == line


def test_parallel_files(tries: Callable[[int, int], int], cells: Callable[..., None]) -> None:
    outcomes = []

    def check(contents: tuple[bytes, bytes]) -> None:
        paths = [Path("text.en"), Path("text.de")]
        sides = []
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
            lines = content.split(b"\n")
            sides.append(lines[: len(lines) - (lines[-1] == b"")])
        found, said = attempt(lambda: list(ParallelFiles(*paths)))
        outcomes.append("refused" if said else "read")
        if said:
            assert "text.en" in said or "text.de" in said
            broken = any(not is_utf8(line) for side in sides for line in side)
            assert broken or len(sides[0]) != len(sides[1])
            return
        assert found == [
            (source.decode().rstrip("\r"), target.decode().rstrip("\r"))
            for source, target in zip(*sides, strict=True)
        ]

    number = examine(check, st.one_of(EQUAL, st.tuples(FILE, FILE)), tries(400, 40))
    fill(cells, "Parallel text files", number, outcomes)


def read_ids(prefix: Path) -> list[list[int]]:
    """The ids of a data-bin, read by hand."""
    index = Path(f"{prefix}.idx").read_bytes()
    count = int.from_bytes(index[18:26], "little")
    sizes = np.frombuffer(index, "<i4", count, 26)
    ids = np.fromfile(f"{prefix}.bin", "<u2")
    return [part.tolist() for part in np.split(ids, np.cumsum(sizes)[:-1])]


def test_prepared_corpora(tries: Callable[[int, int], int], cells: Callable[..., None]) -> None:
    usual = list(CorpusConfig(train=60, valid=0, test=0).open().splits["train"])
    texts = st.one_of(LINE, LINE, st.sampled_from(["a\nb", "\ud800", "\n", "a\r\nb"]))
    outcomes = []

    def check(pairs: list[tuple[str, str]]) -> None:
        folder = Path(f"bin-{len(outcomes)}")
        corpus = ParallelCorpus(
            source_lang="en", target_lang="de", splits={"train": usual + pairs, "test": pairs}
        )
        _, said = attempt(lambda: prepare(corpus, folder, vocabulary_size=150))
        outcomes.append("refused" if said else "prepared")
        if said:
            assert "surrogate" in said
            assert any("\ud800" in text for pair in pairs for text in pair)
            return
        references = (folder / "test.en-de.de.txt").read_bytes().decode()
        assert references == "".join(f"{' '.join(target.splitlines())}\n" for _, target in pairs)
        model = sentencepiece.SentencePieceProcessor(
            model_proto=(folder / "sentencepiece.bpe.model").read_bytes()
        )
        lines = (folder / "dict.en.txt").read_bytes().decode().split("\n")
        words = {line.rpartition(" ")[0]: i for i, line in enumerate(lines, start=4)}
        for side, lang in enumerate(("en", "de")):
            assert read_ids(folder / f"test.en-de.{lang}") == [
                [
                    *(
                        words.get(piece, 3)
                        for piece in model.encode(pair[side].replace("\n", " "), out_type=str)
                    ),
                    2,
                ]
                for pair in pairs
            ]

    pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)
    number = examine(check, pairs, tries(200, 10))
    fill(cells, "Corpora", number, outcomes)


def test_dictionaries(tries: Callable[[int, int], int], cells: Callable[..., None]) -> None:
    outcomes = []
    odd = [b" -1", b" x", b"", b" 1.5", b" " + b"9" * 5000, b"\t1"]
    count = st.one_of(*[st.just(b" 12")] * 9, st.sampled_from(odd))
    word = st.one_of(*[LINE.map(str.encode)] * 9, BROKEN)
    entry = st.tuples(word, count).map(b"".join)

    def check(lines: list[bytes]) -> None:
        path = Path("dict.en.txt")
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        read, said = attempt(lambda: Dictionary.load(path))
        outcomes.append("refused" if said else "read")
        if said:
            assert "dict.en.txt" in said
            return
        words = [line.decode().rstrip().rpartition(" ")[0] for line in lines]
        assert [read[i] for i in range(4, len(read))] == words
        read.save("again.txt")
        again = Dictionary.load("again.txt")
        assert [again[i] for i in range(len(again))] == [read[i] for i in range(len(read))]

    number = examine(check, st.lists(entry, min_size=1, max_size=4), tries(300, 30))
    fill(cells, "Dictionaries", number, outcomes)


@pytest.mark.usefixtures("here")
def test_lines_to_translate(tries: Callable[[int, int], int], cells: Callable[..., None]) -> None:
    translator = Translator("run/last.ckpt", beam_size=1)
    outcomes = []

    def check(lines: list[str]) -> None:
        stream = io.StringIO("".join(f"{line}\n" for line in lines), newline="\n")
        found, said = attempt(lambda: list(translator(stream)))
        outcomes.append("refused" if said else "translated")
        if said:
            assert re.match(r"line \d+ of the input has \d+ subwords, but .* at most 1024", said)
            return
        assert len(found) == len(lines)
        assert not any("\n" in translation for translation in found)

    number = examine(check, st.lists(LINE, max_size=4), tries(100, 5))
    fill(cells, "Lines to translate", number, outcomes)
