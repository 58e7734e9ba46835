"""`admin-init prepare`, killed and repeated."""

import shlex
import signal
from pathlib import Path

import pytest
from _helpers.command_line import call, kill_at

CORPUS = ["prepare", "--corpus.train", "2000", "--corpus.valid", "20", "--corpus.test", "20"]


@pytest.mark.parametrize(
    ("settings", "stage", "number"),
    [
        (["--vocabulary_size", "300"], "ids", signal.SIGKILL),
        (
            ["--subwords", "subword-nmt", "--merges", "100", "--normalize", "true"],
            "text",
            signal.SIGTERM,
        ),
    ],
)
def test_what_was_killed_goes_on_and_writes_the_same(
    settings: list[str], stage: str, number: signal.Signals
) -> None:
    assert call(*CORPUS, *settings, "--destination", "whole").code == 0
    arguments = [*CORPUS, *settings, "--shard_size", "50", "--destination", "killed"]
    shards = Path(".killed.scratch/shards")
    command = [*arguments, "--workers", "2"]
    said = kill_at(shards / f"train.000015.{stage}", *command, number=number)
    if number == signal.SIGTERM:
        repeat = shlex.join(["admin-init", *command])
        assert said.splitlines()[-1] == (
            f"admin-init prepare: terminated. Finished work is kept. To continue: {repeat}"
        )
    assert not Path("killed").exists()
    assert 10 < len(list(shards.glob(f"train.*.{stage}"))) < 40
    assert call(*arguments).code == 0
    assert {path.name for path in Path().iterdir()} == {"whole", "killed"}
    for path in Path("whole").iterdir():
        assert path.read_bytes() == (Path("killed") / path.name).read_bytes(), path.name
