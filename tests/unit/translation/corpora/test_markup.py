"""Against the programs that the published data were made with, run on the same files."""

import random
import re
from pathlib import Path

import pytest
from _helpers.raw_corpora import SENTENCES, sgm, talk_xml
from sacrebleu.dataset.fake_sgml import FakeSGMLDataset

from admin_init.translation.corpora.texts import Text, column, segments


@pytest.mark.parametrize("form", [sgm, talk_xml])
def test_segments_are_sacrebleus(form: type) -> None:
    Path("test.sgm").write_bytes(form(SENTENCES))
    FakeSGMLDataset("any", data=[], langpairs={})._convert_format("test.sgm", "test.txt")
    expected = Path("test.txt").read_bytes().decode().removesuffix("\n").split("\n")
    found = list(Text(Path("test.sgm"), extract=segments))
    assert found == expected
    assert len(found) == len(SENTENCES)


def test_columns_of_a_table() -> None:
    lines = ["one\teins\t0.5", " two \t zwei ", "three", ""]
    assert list(column(lines, 0)) == ["one", "two", "three", ""]
    assert list(column(lines, 1)) == ["eins", "zwei", "", ""]


def test_segments_are_those_of_sacrebleus_expression() -> None:
    expression = re.compile(r"<seg.*?>(.*)</seg>.*?")
    chance = random.Random(1)
    parts = ["<seg", "<seg ", ">", "</seg>", "</seg", "<", " ", "a", "id=1", "\t", "\u2028"]
    for _ in range(20_000):
        line = "<seg " + "".join(chance.choices(parts, k=chance.randrange(9)))
        expected = " ".join(expression.sub(r"\1", line).split())
        assert list(segments([line])) == [expected], line


def test_a_segment_that_is_none_takes_no_cubic_time() -> None:
    line = "<seg " + "<seg>" * 200_000  # By the expression of sacreBLEU, years.
    assert list(segments([line])) == [line]
