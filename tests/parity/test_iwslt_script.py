"""Texts of IWSLT's files, as fairseq's own script extracts them."""

import re
import subprocess
from pathlib import Path

from _helpers.raw_corpora import SENTENCES, fairseq_script, talk_tags, talk_xml

from admin_init.translation.corpora.texts import Text, segments, talks


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
