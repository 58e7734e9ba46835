"""A preparation that is shared, one that ended before its time, and one that is not alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest
from _helpers.small_preparation import KINDS, files, make_corpus
from filelock import FileLock

from admin_init._utils.atomic_files import move_whole
from admin_init.errors import CorpusError
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.preparation.manifest import Manifest
from admin_init.translation.preparation.pipeline import Pipeline
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.preparation.shards import Shard
from admin_init.translation.preparation.stages import CountWords, Preprocess, SplitIntoSubwords
from admin_init.translation.subwords.sentencepiece import SentencePiece
from admin_init.translation.subwords.subword_nmt import BytePairs


class Watched(list[tuple[str, str]]):
    """Pairs that know how often they were read."""

    readings = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.readings += 1
        return super().__iter__()


def interrupt(*_: Any) -> Never:
    raise KeyboardInterrupt


def test_what_is_dropped_is_listed_in_the_order_of_the_lines(tmp_path: Path) -> None:
    """Whichever stage dropped it: a space of no width is a word, but no subword."""
    train = list(make_corpus().splits["train"])
    train[1], train[60] = ("\u200b", "\u200b"), ("a " * 300, "ein")
    for size in (9, 1000):
        manifest = prepare(
            make_corpus(train),
            tmp_path / str(size),
            shard_size=size,
            vocabulary_size=90,
            length_unit="word",
        )
        dropped = manifest.splits["train"].dropped.items()
        assert [(why, found.lines) for why, found in dropped] == [
            ("empty", [2]),
            ("longer than 250 words", [61]),
        ]
    assert files(tmp_path / "9") == files(tmp_path / "1000")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [Preprocess, CountWords, SplitIntoSubwords])
def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: type, kind: str
) -> None:
    if (stage, kind) == (CountWords, "sentencepiece"):
        return  # which has no such stage
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    before = files(tmp_path / "bin")
    pairs = Watched(make_corpus().splits["train"])
    arguments = {"shard_size": 20, "overwrite": True, **KINDS[kind]}
    work, done = stage.__call__, []

    def interrupted(self: Any, shard: Shard) -> None:
        if shard.number == 2:
            raise KeyboardInterrupt
        work(self, shard)

    def remembered(self: Any, shard: Shard) -> None:
        done.append((shard.split, shard.number))
        work(self, shard)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(make_corpus(pairs), tmp_path / "bin", **arguments)
    assert files(tmp_path / "bin") == before
    assert {path.name for path in tmp_path.iterdir()} == {"bin", ".bin.scratch"}

    with monkeypatch.context() as patched:
        patched.setattr(stage, "__call__", remembered)
        if stage is SplitIntoSubwords:
            patched.setattr(SentencePiece, "learn", None)
            patched.setattr(BytePairs, "learn", None)
        prepare(make_corpus(pairs), tmp_path / "bin", **arguments)
    tests = [] if stage is CountWords else [("test", 0)]
    assert done == [("train", 2), ("train", 3), *tests]
    # The second time to see that it is the same.
    assert pairs.readings == 2
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}
    prepare(make_corpus(), tmp_path / "whole", **KINDS[kind])
    assert files(tmp_path / "bin") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "train"),
    [({"lowercase": True}, None), ({"shard_size": 9}, None), ({}, [("a dog", "ein Hund")] * 80)],
)
def test_what_something_else_has_left_behind_is_not_taken_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    train: list[tuple[str, str]] | None,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("admin_init.translation.preparation.prepare.write_data_bin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(make_corpus(train), tmp_path / "bin", vocabulary_size=90, **settings)
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    prepare(make_corpus(), tmp_path / "whole", vocabulary_size=90)
    assert files(tmp_path / "bin") == files(tmp_path / "whole")


def test_a_run_interrupted_while_it_reads_is_repeated(tmp_path: Path) -> None:
    class Interrupted(Watched):
        def __iter__(self) -> Iterator[tuple[str, str]]:
            yield from super().__iter__()
            raise KeyboardInterrupt

    pairs = Interrupted(embedded_corpus("large", seed=1, train=99, valid=5, test=5)["train"])
    with pytest.raises(KeyboardInterrupt):
        prepare(make_corpus(pairs), tmp_path / "bin", vocabulary_size=90, shard_size=9)
    assert {path.name for path in tmp_path.iterdir()} == {".bin.scratch"}
    again = Watched(make_corpus().splits["train"])
    prepare(make_corpus(again), tmp_path / "bin", vocabulary_size=90, shard_size=9)
    assert again.readings == 1
    prepare(make_corpus(), tmp_path / "whole", vocabulary_size=90)
    assert files(tmp_path / "bin") == files(tmp_path / "whole")


def test_a_corpus_that_cannot_be_read_for_once_costs_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(Watched):
        def __iter__(self) -> Iterator[tuple[str, str]]:
            raise CorpusError("train.en is missing.")

    with monkeypatch.context() as patched:
        patched.setattr("admin_init.translation.preparation.prepare.write_data_bin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    with pytest.raises(CorpusError, match="is missing"):
        prepare(make_corpus(Missing()), tmp_path / "bin", vocabulary_size=90)
    monkeypatch.setattr(SentencePiece, "learn", None)
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    class Meanwhile(Watched):
        def __iter__(self) -> Iterator[tuple[str, str]]:
            with pytest.raises(CorpusError, match="bin is being prepared by another process"):
                prepare(make_corpus(), tmp_path / "bin", vocabulary_size=80)
            return super().__iter__()

    pairs = Meanwhile(make_corpus().splits["train"])
    manifest = prepare(make_corpus(pairs), tmp_path / "bin", vocabulary_size=100)
    assert pairs.readings == 1
    assert Manifest.load(tmp_path / "bin") == manifest
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


@pytest.mark.parametrize("size", [80, 100])
def test_what_another_run_has_finished_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(make_corpus(), tmp_path / "bin", vocabulary_size=size)

    class Meanwhile(Watched):
        """Read to see whether what was interrupted can go on."""

        def __iter__(self) -> Iterator[tuple[str, str]]:
            if not self.readings:
                prepare(make_corpus(), tmp_path / "bin", vocabulary_size=80)
            return super().__iter__()

    pairs = Meanwhile(make_corpus().splits["train"])
    if size == 80:
        found = prepare(make_corpus(pairs), tmp_path / "bin", vocabulary_size=80)
        assert Manifest.load(tmp_path / "bin") == found
    else:
        with pytest.raises(CorpusError, match="vocabulary_size is 100, but was 80"):
            prepare(make_corpus(pairs), tmp_path / "bin", vocabulary_size=100)
    assert pairs.readings == 1
    assert Manifest.load(tmp_path / "bin").settings["vocabulary_size"] == 80
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_between_its_two_moves_loses_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    before = files(tmp_path / "bin")

    def killed(part: Path, path: Path) -> None:
        if path == tmp_path / "bin":
            raise KeyboardInterrupt
        move_whole(part, path)

    with monkeypatch.context() as patched:
        patched.setattr("admin_init.translation.preparation.workspace.move_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(make_corpus(), tmp_path / "bin", vocabulary_size=80, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {".bin.scratch"}
    if overwrite:
        prepare(make_corpus(), tmp_path / "bin", vocabulary_size=80, overwrite=True)
        assert Manifest.load(tmp_path / "bin").settings["vocabulary_size"] == 80
    else:
        with pytest.raises(CorpusError, match="vocabulary_size is 80, but was 90"):
            prepare(make_corpus(), tmp_path / "bin", vocabulary_size=80)
        assert files(tmp_path / "bin") == before
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_a_run_killed_after_its_last_move_is_tidied_up_after(tmp_path: Path) -> None:
    manifest = prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    left = tmp_path / ".bin.scratch"
    (left / "shards").mkdir(parents=True)
    (left / "shards" / "train.0.text").write_text("a shard")
    with FileLock(left / "lock"):  # as while that run still tidies up itself
        assert prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90) == manifest
        assert left.exists()
    assert prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_scratch_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim" / "result").mkdir(parents=True)
    (tmp_path / ".bin.scratch").symlink_to(tmp_path / "victim")
    with pytest.raises(CorpusError, match=r"\.bin\.scratch is a link"):
        prepare(make_corpus(), tmp_path / "bin", vocabulary_size=90)
    assert (tmp_path / "victim" / "result").is_dir()
