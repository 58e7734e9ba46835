"""Small files that claim, or unpack to, far more than there is: refused while they are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.command_line import call
from _helpers.nasty_values import attempt
from backports import zstd

from admin_init._utils.checkpoints import load
from admin_init.translation.corpora.parallel import ParallelFiles
from admin_init.translation.corpora.texts import Text

pytestmark = pytest.mark.faults

BOMBS = {
    "one line": b"a" * 100_000_000,
    "many lines": (b"a" * 999 + b"\n") * 100_000,
}


def zipped(content: bytes) -> Text:
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.en", content)
    return Text(Path("bomb.zip"), "a.en")


def tarred(content: bytes) -> Text:
    with tarfile.open("bomb.tgz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("a.en")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return Text(Path("bomb.tgz"), "a.en")


def compressed(name: str, compress: Callable[[bytes], bytes]) -> Callable[[bytes], Text]:
    def make(content: bytes) -> Text:
        Path(name).write_bytes(compress(content))
        return Text(Path(name))

    return make


FORMS = [
    zipped,
    tarred,
    compressed("bomb.gz", lambda content: gzip.compress(content, 1)),
    compressed("bomb.bz2", lambda content: bz2.compress(content, 1)),
    compressed("bomb.xz", lambda content: lzma.compress(content, preset=0)),
    compressed("bomb.zst", zstd.compress),
]


@pytest.mark.parametrize("what", BOMBS)
def test_a_text_that_unpacks_to_far_more(
    what: str, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    Path("whole.de").write_text("eins\n")
    forms = FORMS[: tries(6, 2)]
    for form in forms:
        text = form(BOMBS[what])
        tracemalloc.start()
        try:
            _, said = attempt(lambda: deque(ParallelFiles(text, Path("whole.de")), maxlen=0))  # noqa: B023
            # An archive's own blocks and the longest line, whatever there is to unpack.
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()
        assert "bomb" in said
        assert "max_line_bytes" in said or "max_expansion" in said
    cells(
        "Faults",
        f"A corpus of a few kilobytes that unpacks to 100 MB, {what}",
        tried=len(forms),
        survived=len(forms),
        exit_code=2,
        message=said,
    )


CLAIMS: list[dict[str, Any]] = [
    {"encoder_layers": 3_000_000},
    {"dim": 10**6, "heads": 1},
    {"vocabulary_size": 10**9},
    {"max_positions": 10**10},
]
FROM = ("--checkpoint", "claims.ckpt")
COMMANDS = {
    "translate": ["translate", *FROM],
    "fold": ["fold", "claims.ckpt", "out"],
    "convert": ["convert", "claims.ckpt", "out"],
    "diagnose": ["diagnose", "--recipe", "fit.yaml", "--output", "out", *FROM],
}


@pytest.mark.parametrize(
    "command",
    # That one parses the whole of Lightning's options.
    [pytest.param(c, marks=[pytest.mark.slow] if c == "diagnose" else []) for c in COMMANDS],
)
def test_a_checkpoint_that_claims_more_than_it_holds(
    command: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    claims = CLAIMS[: tries(4, 2)]
    for claim in claims:
        checkpoint = load("run/last.ckpt")
        checkpoint["hyper_parameters"]["transformer"] |= claim
        torch.save(checkpoint, "claims.ckpt")
        done = call(*COMMANDS[command])
        assert done.code == 2, done.err
        assert "not a checkpoint of a translation model" in done.err
        assert "Traceback" not in done.err
        assert not (here / "out").exists()
    cells(
        "Faults",
        f"A checkpoint that claims millions of layers, ids or positions, to `{command}`",
        tried=len(claims),
        survived=len(claims),
        exit_code=2,
        message=done.err.strip().splitlines()[-1],
    )
