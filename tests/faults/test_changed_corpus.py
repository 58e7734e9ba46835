"""A corpus that changes between two runs, of a preparation or of a training."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from _helpers.command_line import call
from _helpers.forked import run
from _helpers.small_run import fit, losses

from admin_init.translation.corpora.config import CorpusConfig

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PREPARE = ["prepare", "--corpus.kind", "files", "--corpus.folder", "text"]
PREPARE += ["--vocabulary_size", "200", "--shard_size", "20", "--destination"]


def write_corpus(train: int = 400) -> None:
    Path("text").mkdir()
    for split, pairs in CorpusConfig(train=train, valid=9, test=9).open().splits.items():
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            Path(f"text/{split}.{language}").write_text(text, "utf-8")


def change(split: str = "train") -> None:
    """Exchange two lines: as many bytes, and the same words."""
    path = Path(f"text/{split}.en")
    first, second, *others = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([second, first, *others]), "utf-8")


@pytest.mark.slow
def test_a_killed_preparation_of_a_corpus_that_changes_begins_anew(
    cells: Callable[..., None],
) -> None:
    write_corpus(train=5000)
    run("--help")  # which the server imports everything for
    seconds = run(*PREPARE, "warm").seconds
    moments, wanted, left = random.Random(5), 10, 0
    for _ in range(wanted):
        run(*PREPARE, "out", after=moments.uniform(seconds / 2, seconds))
        left += Path(".out.scratch").exists()
        done = Path("out").exists()
        change()
        assert call(*PREPARE, "fresh").code == 0
        repeated = call(*PREPARE, "out", *(["--overwrite", "true"] if done else []))
        assert repeated.code == 0, repeated.err
        for path in Path("fresh").iterdir():
            assert path.read_bytes() == (Path("out") / path.name).read_bytes(), path.name
        for folder in ("out", "fresh"):
            shutil.rmtree(folder)
    cells(
        "Faults",
        "Corpus that changes after `prepare` was killed",
        tried=wanted,
        survived=wanted,
        exit_code=0,
        message=f"none; {left} had left a part of the work, none of which was used",
    )


def test_a_finished_preparation_names_what_has_changed(cells: Callable[..., None]) -> None:
    write_corpus()
    assert call(*PREPARE, "out").code == 0
    for split in ("train", "valid", "test"):
        change(split)
        done = call(*PREPARE, "out")
        assert done.code == 2
        assert f"the sentences of {split} have changed" in done.err
        change(split)
        assert call(*PREPARE, "out").code == 0
    cells(
        "Faults",
        "Corpus that changes after `prepare`",
        tried=3,
        survived=3,
        exit_code=2,
        message=done.err.strip().splitlines()[-1],
    )


@pytest.mark.usefixtures("here")
def test_a_run_does_not_resume_on_other_sentences(cells: Callable[..., None]) -> None:
    """Of which there are as many, and of the same lengths."""
    names = ("train.en-de.en", "train.en-de.de")
    for name in names:
        path = Path(f"bin/{name}.bin")
        whole = path.read_bytes()
        # What fairseq made has no sums of its own.
        Path("bin/prepare.json").unlink(missing_ok=True)
        path.write_bytes(whole[2:4] + whole[:2] + whole[4:])
        done = call(*fit("resumed"))
        assert done.code == 2
        assert "The checkpoint was saved by a run on other sentences than bin/" in done.err
        path.write_bytes(whole)
    assert call(*fit("again", "--trainer.max_steps", "10")).code == 0
    assert list(losses("again")) == [8, 9]
    cells(
        "Faults",
        "Data-bin that changes between `fit` and its resumption",
        tried=len(names),
        survived=len(names),
        exit_code=2,
        message=done.err.strip().splitlines()[-1],
    )
