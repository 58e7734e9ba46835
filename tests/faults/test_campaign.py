"""Commands that anything may end at any moment lose nothing, and leave nobody behind."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from _helpers.forked import start
from _helpers.small_run import fit, losses, weights, write_recipe

from admin_init._utils.checkpoints import load

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
COMPARISON: dict[str, Any] = {
    "output": "out",
    "corpus": {"kind": "embedded", "train": 200, "valid": 30, "test": 10},
    "vocabulary_size": 300,
    "grid": {"residual": ["post", "admin"], "depth": ["2-1"], "learning_rate": [5e-3]},
    "transformer": {"dim": 16, "ffn_dim": 32, "heads": 2, "dropout": 0.1},
    "optimization": {"warmup_steps": 10},
    "max_steps": 38,
    "max_tokens": 300,
    "validate_every": 5,
    "studies": ["output-change"],
    "workers": 2,
    "threads": 1,
}


class Compare:
    """A comparison of two runs, and a study."""

    folder = Path("out")

    def set_up(self) -> None:
        Path("compare.yaml").write_text(yaml.safe_dump(COMPARISON))

    def command(self) -> list[str]:
        return ["compare", "--config", "compare.yaml"]

    def outcome(self) -> Any:
        runs = {
            path.parent.name: json.loads(path.read_text()) | {"seconds": None, "checksum": None}
            for path in sorted(self.folder.glob("*/result.json"))
        }
        return runs, (self.folder / "results.jsonl").read_text()


class Prepare:
    """A preparation on two workers, shard by shard."""

    folder = Path("bin")

    def set_up(self) -> None:
        shutil.rmtree(".bin.scratch", ignore_errors=True)

    def command(self) -> list[str]:
        sizes = ["--corpus.train", "4000", "--vocabulary_size", "400", "--shard_size", "100"]
        return ["prepare", *sizes, "--workers", "2", "--destination", "bin"]

    def outcome(self) -> Any:
        assert not Path(".bin.scratch").exists()
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


class Fit:
    """A training with a process that loads its batches; goes on from the latest checkpoint."""

    folder = Path("run")
    resumed_from = 0

    def set_up(self) -> None:
        write_recipe()
        self.resumed_from = 0

    def command(self) -> list[str]:
        shutil.rmtree("run/logs", ignore_errors=True)
        reached = {load(path)["global_step"]: path for path in self.folder.glob("*.ckpt")}
        self.resumed_from = max(reached, default=0)
        last = reached.get(self.resumed_from, Path("run/last.ckpt"))
        return [*fit("killed", last=str(last)), "--data.num_workers", "1"]

    def outcome(self) -> Any:
        assert not Path("run/interrupted.ckpt").exists()
        last = self.resumed_from
        return {s: loss for s, loss in losses("killed").items() if s >= last}, weights(
            Path("run/last.ckpt")
        )

    def expected(self, whole: Any) -> Any:
        return {s: loss for s, loss in whole[0].items() if s >= self.resumed_from}, whole[1]


def disturb(process: Any, moments: random.Random, latest: float) -> tuple[int, bool] | None:
    """Send a random signal at a random moment to the process or one of its descendants.

    Returns:
        The signal, and whether it went to the process itself; None where it was over before.
    """
    process.join(moments.uniform(0, latest))
    number, own = moments.choice(SIGNALS), moments.random() < 0.5
    if not process.is_alive():
        return None
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        own |= not family
        target = psutil.Process(process.pid) if own else moments.choice(family)
        target.send_signal(number)
    except psutil.NoSuchProcess:
        return None
    process.join(200)
    assert process.exitcode is not None, "it did not end"
    left = psutil.wait_procs(family, timeout=60)[1]
    assert not left, f"left running: {left}"
    return number, own


@pytest.mark.parametrize("kind", [Compare, Prepare, Fit])
def test_ended_at_random_moments_and_repeated(
    kind: Callable[[], Any], tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    tried = kind()
    name = kind.__name__.lower()
    tried.set_up()
    start("--help")[0].join()  # which the server imports everything for
    began = time.monotonic()
    process, output = start(*tried.command())
    process.join()
    seconds = time.monotonic() - began
    assert process.exitcode == 0, output.read_text()
    whole = tried.outcome()

    moments = random.Random(name)
    wanted = tries(50, 3)
    codes: Counter[int] = Counter()
    while codes.total() < wanted:
        shutil.rmtree(tried.folder)
        tried.set_up()
        code = None
        while code != 0:
            process, output = start(*tried.command())
            sent = disturb(process, moments, seconds) if codes.total() < wanted else None
            process.join()
            code, said = process.exitcode, output.read_text("utf-8")
            assert sent or code == 0, said
            if sent:
                codes[code] += 1
                number, own = sent
                ended = -number if number == signal.SIGKILL else 128 + number
                # A process that is not needed any more, or again, may die unseen; 2 is a refusal,
                # 1 that of a run.
                assert code in ((0, ended) if own else (0, 1, 2)), (sent, code, said)
                assert "Traceback" not in said, said
                names = (" was ended by SIG", "DataLoader", "that starts the workers has died")
                assert own or code == 0 or any(name in said for name in names)
        expected = tried.expected(whole) if name == "fit" else whole
        assert tried.outcome() == expected
    cells(
        "Faults",
        f"SIGKILL, SIGINT or SIGTERM at a random moment to `{name}` or one of its processes",
        tried=wanted,
        survived=wanted,
        exit_code=", ".join(str(code) for code in sorted(codes)),
        message="what ended it, and the command that goes on",
    )
