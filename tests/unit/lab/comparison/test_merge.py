import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admin_init import AdminInitError
from admin_init._utils.atomic_files import write_checked, write_json
from admin_init.lab.comparison.config import Comparison, write_settings
from admin_init.lab.comparison.criteria import Criteria
from admin_init.lab.comparison.grid import Grid, Variant
from admin_init.lab.comparison.history import Course, Validation
from admin_init.lab.comparison.merge import merge
from admin_init.lab.comparison.result import Result, make_result
from admin_init.lab.report.page import write_report

GRID = Grid(residual=["post", "pre"], learning_rate=[1e-3, 2e-3], seed=[1, 2])


def result(comparison: Comparison, variant: Variant, **changed: Any) -> Result:
    nll = math.nan if variant.residual == "post" else 2 + variant.learning_rate * variant.seed
    course: dict[str, Any] = {
        "train_loss": [5.0, 4.0],
        "grad_norm": [1.0, 2.0],
        "validation": [Validation(2, nll, 0.5)],
        "initial_nll": 6.0,
        "seconds": 7.0,
    }
    return make_result(comparison, variant, Course(**course | changed), 4.0, None)


def computer(folder: str, **settings: Any) -> Comparison:
    """Lay out the folder of a computer that has done its share."""
    comparison = Comparison(**{"grid": GRID, "output": folder} | settings)
    write_settings(comparison, entropy=4.0)
    for variant in comparison.variants():
        keep(comparison, variant)
        Path(folder, variant.name, "last.ckpt").write_bytes(b"large")
        Path(folder, variant.name, "events.out.tfevents.1").write_bytes(b"curves")
    return comparison


def keep(comparison: Comparison, variant: Variant, **changed: Any) -> None:
    made = result(comparison, variant, **changed)
    write_json(Path(comparison.output, variant.name, "result.json"), made.to_dict())


def test_shares_together_are_the_whole_in_the_order_of_the_grid() -> None:
    for share in ("1", "2", "3"):
        computer(f"computer{share}", share=f"{share}/3", workers=int(share), title="Shared")
    computer("one")
    merged = merge(["computer3", "computer1", "computer2"], "merged")
    expected = [result(Comparison(grid=GRID), variant) for variant in GRID.variants()]
    assert repr(merged.outcome.results) == repr(expected)  # NaN is not equal to itself
    assert merged.outcome.errors == {}
    assert merged.outcome.entropy == 4.0
    assert merged.comparison == Comparison(grid=GRID, output="merged", workers=3, title="Shared")
    write_report(*merged)
    write_report(*merge(["one"], "again"))
    for file in ("results.jsonl", "report.png"):
        assert Path("merged", file).read_bytes() == Path("again", file).read_bytes()
    run = Path("merged", GRID.variants()[0].name)
    assert sorted(path.name for path in run.iterdir()) == ["events.out.tfevents.1", "result.json"]


def test_merging_again_and_merging_what_was_merged() -> None:
    computer("a", share="1/2")
    computer("b", share="2/2")
    first = merge(["a", "b"], "merged")
    assert repr(merge(["a", "b"], "merged")) == repr(first)
    assert repr(merge(["merged", "a"], "twice").outcome) == repr(first.outcome)


def test_grids_may_differ() -> None:
    one, other = replace(GRID, seed=[1]), replace(GRID, seed=[3], residual=["pre"], width=[64])
    computer("a", grid=one)
    computer("b", grid=other)
    merged = merge(["a", "b"], "merged")
    runs = [run.variant for run in merged.outcome.results]
    assert runs == [*one.variants(), *other.variants()]
    assert merged.comparison.grid.seed == [1, 3]
    assert merged.comparison.grid.residual == ["post", "pre"]
    assert merged.comparison.grid.width == [64]


def test_what_nobody_has_done_is_said() -> None:
    computer("a", share="1/2")
    merged = merge(["a"], "merged")
    assert list(merged.outcome.errors) == [variant.name for variant in GRID.variants()[1::2]]
    assert "No folder has its result" in merged.outcome.errors["pre_18-18_lr0.001_seed1"]


def test_criteria_are_those_of_the_first_folder() -> None:
    computer("a", grid=replace(GRID, residual=["pre"], seed=[1]))
    strict = Criteria(entropy_share=0.25)
    computer("b", grid=replace(GRID, residual=["pre"], seed=[2]), criteria=strict)
    assert all(run.trained for run in merge(["a", "b"], "merged").outcome.results)
    assert not any(run.trained for run in merge(["b", "a"], "strict").outcome.results)


def test_other_settings_are_refused_by_name() -> None:
    computer("a")
    computer("b", max_steps=7, transformer={"dim": 32}, workers=2)
    with pytest.raises(AdminInitError) as refused:
        merge(["a", "b"], "merged")
    said = str(refused.value)
    assert "a and b are comparisons with different settings" in said
    assert "`transformer` is {} and {'dim': 32}; `max_steps` is 500 and 7." in said
    assert not Path("merged").exists()


def test_another_corpus_of_the_same_name_is_refused() -> None:
    computer("a", share="1/2")
    write_settings(computer("b", share="2/2"), entropy=4.5)
    with pytest.raises(AdminInitError, match=r"`unigram entropy of the corpus` is 4\.0 and 4\.5"):
        merge(["a", "b"], "merged")


def test_the_same_run_may_be_in_two_folders_with_the_same_figures() -> None:
    both = computer("a")
    shutil.copytree("a", "b")
    comparison = replace(both, output="b")
    for variant in GRID.variants():
        keep(comparison, variant, seconds=100.0)  # a slower computer
    assert len(merge(["a", "b"], "merged").outcome.results) == 8
    odd = GRID.variants()[1]
    keep(comparison, odd, grad_norm=[1.0, 2.5])
    with pytest.raises(AdminInitError, match=rf"a/{odd.name} and b/{odd.name} have different"):
        merge(["a", "b"], "other")
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("folders", "output", "message"),
    [
        ([], "merged", "`folders` must name at least one folder"),
        (["a", "nowhere"], "merged", "nowhere holds no comparison: it has no comparison.json"),
        (["a", "old"], "merged", "written by an earlier version. Run the comparison again"),
        (["a"], "./a", "`output` must not be one of the `folders`, but is ./a"),
        (["a"], "other", "other holds runs with other settings: `max_steps` was 7 and is now 500"),
    ],
)
def test_what_cannot_be_merged(folders: list[str], output: str, message: str) -> None:
    computer("a")
    computer("other", max_steps=7)
    Path("old").mkdir()
    settings = json.loads(Path("a/comparison.json").read_text())
    Path("old/comparison.json").write_text(json.dumps({"max_steps": settings["max_steps"]}))
    with pytest.raises(AdminInitError) as refused:
        merge(folders, output)
    assert message in str(refused.value)


def edited(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_text(""), "it is empty"),
    "cut": (lambda path: path.write_text('{"run":'), "it is not valid JSON"),
    "a list": (lambda path: path.write_text("[]"), "it holds a list"),
    "deep": (lambda path: path.write_text("[" * 100_000), "it is not valid JSON"),
    "a string": (lambda path: edited(path, seed="1"), "`seed` is '1': expected `int`"),
    "no course": (lambda path: edited(path, history={}), "missing required field `train_loss`"),
    "outside": (
        lambda path: edited(path, residual="../../../x"),
        "it is the result of '../../../x_18-18",
    ),
    "another run": (lambda path: edited(path, run="other"), "it is the result of 'other'"),
    "a depth": (lambda path: edited(path, depth="x"), "`depth` must be of the form"),
    "a figure": (
        lambda path: write_checked(path, json.loads(path.read_text())) or edited(path, val_nll=0.5),
        "damaged or was edited",
    ),
    "a link": (
        lambda path: path.rename("kept.json") and path.symlink_to(Path("kept.json").absolute()),
        "it is a link, or not a regular file",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_result_is_named_and_the_others_are_merged(fault: str) -> None:
    break_, message = FAULTS[fault]
    computer("a")
    bad = GRID.variants()[1]
    break_(Path("a", bad.name, "result.json"))
    outcome = merge(["a"], "merged").outcome
    assert [run.variant for run in outcome.results] == [v for v in GRID.variants() if v != bad]
    assert list(outcome.errors) == [bad.name]
    assert f"a/{bad.name}/result.json" in outcome.errors[bad.name]
    assert message in outcome.errors[bad.name]
    assert "it resumes the run" in outcome.errors[bad.name]
    assert not Path("merged", bad.name).exists()


def test_a_bad_result_is_taken_from_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    computer("a")
    shutil.copytree("a", "b")
    bad = GRID.variants()[1].name
    Path("a", bad, "result.json").write_text("")
    outcome = merge(["a", "b"], "merged").outcome
    assert (len(outcome.results), outcome.errors) == (8, {})
    assert f"{bad} is taken from b." in capsys.readouterr().err


def test_only_files_of_the_run_are_copied(capsys: pytest.CaptureFixture[str]) -> None:
    computer("a")
    run = GRID.variants()[0].name
    Path("secret").write_text("secret")
    Path("a", run, "there").symlink_to(Path("secret").absolute())
    Path("a", run, "nowhere").symlink_to("nothing")
    os.mkfifo(Path("a", run, "pipe"))
    Path("a", run, ".last.ckpt.0123.part").write_text("half")
    assert merge(["a"], "merged").outcome.errors == {}
    copied = {path.name for path in Path("merged", run).iterdir()}
    assert copied == {"events.out.tfevents.1", "result.json"}
    said = capsys.readouterr().err
    for name in ("there", "nowhere", "pipe"):
        assert f"{run}/{name} is not copied" in said


def test_a_report_folder_that_is_a_link_is_replaced() -> None:
    computer("a")
    for folder in ("merged", "victim"):
        Path(folder).mkdir()
    Path("victim/keep").write_text("keep")
    Path("merged/report").symlink_to(Path("victim").absolute())
    write_report(*merge(["a"], "merged"))
    assert [path.name for path in Path("victim").iterdir()] == ["keep"]
    assert not Path("merged/report").is_symlink()
    assert list(Path("merged/report").iterdir())
