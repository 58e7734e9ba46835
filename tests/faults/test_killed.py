"""A training run that is killed, again and again, ends as an undisturbed one."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from _helpers.forked import Ended, run
from _helpers.small_run import LAST, LAST_STEP, SAVED_EVERY, fit, losses, weights, write_recipe

from admin_init._utils.checkpoints import load

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def see_that_it_is_undisturbed(resumed_from: int) -> None:
    """See that what was resumed has the losses and the weights of the undisturbed run."""
    expected = losses("whole", "undisturbed")
    assert losses("killed") == {s: loss for s, loss in expected.items() if s >= resumed_from}
    assert weights(LAST) == weights(Path("undisturbed/last.ckpt"))


def undisturbed_run(ranks: int) -> Ended:
    """Let a run end, and move what it leaves aside."""
    run("--help")  # which the server imports everything for
    ended = run(*fit("whole"), ranks=ranks)
    assert ended.code == 0, ended.text
    shutil.move("run", "undisturbed")
    assert list(losses("whole", "undisturbed")) == list(range(LAST_STEP))
    return ended


def reached() -> int:
    """The step of the last checkpoint, which has to be whole; 0 before the first."""
    assert {path.name for path in Path("run").glob("*.ckpt")} <= {LAST.name}
    return int(load(LAST)["global_step"]) if LAST.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "name"), [(1, "one process"), (2, "DDP, two processes")])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    ranks: int, name: str, cells: Callable[..., None]
) -> None:
    write_recipe(devices=ranks, strategy="ddp" if ranks > 1 else "auto")
    seconds = undisturbed_run(ranks).seconds
    moments = random.Random(ranks)
    kills, resumed, wanted = 0, 0, 50
    while kills < wanted:
        shutil.rmtree("run", ignore_errors=True)
        ended = None
        while ended is None or ended.code == -signal.SIGKILL:
            step = reached()
            resumed += step > 0
            # It begins to train after a third or more.
            after = moments.uniform(seconds / 3, seconds) if kills < wanted else 200
            shutil.rmtree("run/logs/killed", ignore_errors=True)
            ended = run(*fit("killed"), ranks=ranks, after=after)
            kills += ended.code == -signal.SIGKILL
        assert ended.code == 0, ended.text
        see_that_it_is_undisturbed(step)
        if step == 0:  # The computer may have been busy when it was first measured.
            seconds = min(seconds, ended.seconds)
    assert resumed
    cells(
        "Faults",
        f"SIGKILL at a random moment of training, {name}",
        tried=kills,
        survived=kills,
        exit_code=-signal.SIGKILL,
        message=f"none; {resumed} went on from a checkpoint, the others from the start",
    )


def test_a_run_killed_in_the_middle_of_saving_keeps_the_checkpoint_before(
    tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    write_recipe()
    undisturbed_run(1)
    size = Path("undisturbed/last.ckpt").stat().st_size
    moments = random.Random(0)
    wanted = tries(10, 1)
    for _ in range(wanted):
        shutil.rmtree("run", ignore_errors=True)
        begun = run(
            *fit(
                "begun",
                "--trainer.max_steps",
                str(moments.randrange(SAVED_EVERY, LAST_STEP, SAVED_EVERY)),
            )
        )
        assert begun.code == 0, begun.text
        step = reached()
        # The losses and the profile are smaller than this.
        at = moments.randrange(20_000, size - 5000)
        ended = run(*fit("cut"), most=at)
        assert ended.code == -signal.SIGXFSZ, ended.text
        assert at in {path.stat().st_size for path in Path("run").rglob("*last.ckpt*")}
        assert reached() == step
        assert run(*fit("killed")).code == 0
        see_that_it_is_undisturbed(step)
    cells(
        "Faults",
        "Killed at a random byte of a checkpoint that is being saved",
        tried=wanted,
        survived=wanted,
        exit_code=-signal.SIGXFSZ,
        message="none; the checkpoint before is whole",
    )
