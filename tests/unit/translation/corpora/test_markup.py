"""Against the programs that the published data were made with, run on the same files."""

import random
import re
import subprocess
from pathlib import Path

import pytest
from raw_corpora import fairseq_script, sgm, talk_tags, talk_xml
from sacrebleu.dataset.fake_sgml import FakeSGMLDataset

from admin_init.translation.corpora.texts import Text, column, segments, talks

SENTENCES = [
    "A title with <b>markup</b>",
    "A description & so on",
    "It\u2019s here, isn\u2019t it?",
    "",
    "  two   spaces\tand a tab ",
    "a line separator \u2028 in it",
    "1 < 2 &amp; 3 > 2",
    "</seg> in a sentence",
]


def fairseqs(first: str, file: Path) -> list[str]:
    """What comes out of a pipeline of fairseq's script, up to the tokenizer."""
    script = fairseq_script("prepare-iwslt14.sh")
    pipeline = re.search(rf"{re.escape(first)}.*?(?=\|[ \\\n]*perl)", script, re.DOTALL)
    assert pipeline is not None
    command = pipeline[0].replace("$orig/$lang/$f", str(file)).replace("$o ", f"{file} ")
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    return done.stdout.decode().removesuffix("\n").split("\n")


def test_talks_are_what_fairseqs_script_keeps() -> None:
    Path("train.tags").write_bytes(talk_tags(SENTENCES))
    found = list(Text(Path("train.tags"), extract=talks))
    assert found == fairseqs("cat $orig/$lang/$f", Path("train.tags")) == SENTENCES


def test_the_test_set_is_what_fairseqs_script_keeps() -> None:
    Path("test.xml").write_bytes(talk_xml(SENTENCES[:-1]))
    found = list(Text(Path("test.xml"), extract=segments))
    expected = fairseqs("grep '<seg id' $o", Path("test.xml"))
    # Plain apostrophes are put in where the sentences are tokenized.
    plain = [sentence.replace("\u2019", "'") for sentence in found]
    assert plain == [" ".join(sentence.split()) for sentence in expected]
    assert "It's here, isn't it?" in plain


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
