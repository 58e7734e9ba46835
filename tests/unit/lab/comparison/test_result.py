"""The result of a run, as it is read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admin_init._utils.atomic_files import write_checked, write_json
from admin_init.errors import AdminInitError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.history import Course, History, LayerNorms, Validation
from admin_init.lab.comparison.result import Result, load_or_set_aside, make_result

COMPARISON = Comparison(output="out", grid=Grid(residual=["pre"]))
(VARIANT,) = COMPARISON.variants()
PATH = Path("out", VARIANT.name, "result.json")
COURSE = Course(
    train_loss=[5.0, float("nan")],
    grad_norm=[1.0, 2.0],
    layer_grad_norm=[LayerNorms(1, {"encoder": 1.0})],
    validation=[Validation(2, 3.0, 0.5)],
    seconds=7.0,
    initial_nll=6.0,
)


@pytest.fixture
def result() -> Result:
    """A result, as a run writes it."""
    made = make_result(COMPARISON, VARIANT, COURSE, 4.0, None)
    write_checked(PATH, made.to_dict())
    return made


def test_a_result_comes_back_from_its_file(result: Result) -> None:
    assert repr(Result.load(PATH)) == repr(result)  # NaN is not equal to itself
    assert repr(load_or_set_aside(COMPARISON, VARIANT, 4.0)) == repr(result)


def test_one_of_an_older_version_has_no_checksum(result: Result) -> None:
    values = result.to_dict()
    del values["history"]["layer_grad_norm"], values["history"]["spikes"]
    values["history"]["seconds"] = 7.0
    del values["initial_nll"]
    write_json(PATH, values)
    old = load_or_set_aside(COMPARISON, VARIANT, 4.0)
    assert repr(old) == repr(
        replace(result, history=replace(result.history, layer_grad_norm=[], initial_nll=None))
    )


def test_the_course_comes_back_from_a_checkpoint() -> None:
    history, resumed = History(), History()
    history.course = COURSE
    state = history.state_dict()
    assert json.loads(json.dumps(state)).keys() == state.keys()
    resumed.load_state_dict(state)
    assert repr(resumed.course) == repr(COURSE)
    del state["spikes"], state["layer_grad_norm"], state["initial_nll"]  # of an earlier version
    resumed.load_state_dict(state)
    assert resumed.course.layer_grad_norm == []
    assert resumed.course.initial_nll is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"on_update": 1}, "Course: unknown field 'on_update'"),
        ({"train_loss": ["a"]}, r"Course: `train_loss\[0\]` is 'a': expected `float`"),
        ({"validation": [{}]}, r"Course: `validation\[0\]` is {}: object missing"),
    ],
)
def test_a_checkpoint_of_another_course_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(AdminInitError, match=message):
        History().load_state_dict(History().state_dict() | changed)


def test_one_that_is_not_there_is_none() -> None:
    assert load_or_set_aside(COMPARISON, VARIANT, 4.0) is None


@pytest.mark.usefixtures("result")
def test_one_that_was_edited_is_set_aside_and_nothing_is_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents = []
    for number in (1, 2):
        values = json.loads(PATH.read_text()) if number == 1 else {"run": "nobody's"}
        if number == 1:
            values["history"]["validation"][-1]["nll"] -= 1.5
        contents.append(json.dumps(values))
        PATH.write_text(contents[-1])
        assert load_or_set_aside(COMPARISON, VARIANT, 4.0) is None
        said = capsys.readouterr().err
        assert f"{PATH} cannot be used" in said
        assert f"It was renamed to result.json.damaged-{number}, and the run is resumed." in said
    asides = [PATH.with_name(f"result.json.damaged-{number}") for number in (1, 2)]
    assert [aside.read_text() for aside in asides] == contents
    assert not PATH.exists()
