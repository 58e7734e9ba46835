"""The result of a run, as it is read again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from admin_init._utils.atomic_files import write_checked, write_json
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.result import Result, judged, kept

COMPARISON = Comparison(output="out", grid=Grid(residual=["pre"]))
(VARIANT,) = COMPARISON.variants()
PATH = Path("out", VARIANT.name, "result.json")


@pytest.fixture
def result() -> Result:
    """A result, as a run writes it."""
    course = {
        "train_loss": [5.0, float("nan")],
        "grad_norm": [1.0, 2.0],
        "layer_grad_norm": [{"step": 1, "norms": {"encoder": 1.0}}],
        "initial_nll": None,
        "validation": [{"step": 2, "nll": 3.0, "source_gain": 0.5}],
        "seconds": 7.0,
    }
    made = judged(COMPARISON, VARIANT, course, 4.0, None)
    write_checked(PATH, asdict(made))
    return made


def test_a_result_comes_back_from_its_file(result: Result) -> None:
    assert repr(Result.load(PATH)) == repr(result)  # NaN is not equal to itself
    assert repr(kept(COMPARISON, VARIANT, 4.0)) == repr(result)


def test_one_of_an_older_version_has_no_checksum(result: Result) -> None:
    values = asdict(result)
    del values["history"]["layer_grad_norm"], values["history"]["spikes"]
    write_json(PATH, values)
    assert repr(kept(COMPARISON, VARIANT, 4.0)) == repr(
        judged(
            COMPARISON,
            VARIANT,
            values["history"] | {"seconds": 7.0, "initial_nll": None},
            4.0,
            None,
        )
    )


def test_one_that_is_not_there_is_none() -> None:
    assert kept(COMPARISON, VARIANT, 4.0) is None


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
        assert kept(COMPARISON, VARIANT, 4.0) is None
        said = capsys.readouterr().err
        assert f"{PATH} cannot be used" in said
        assert f"It is now result.json.damaged-{number}, and the run is taken up again." in said
    asides = [PATH.with_name(f"result.json.damaged-{number}") for number in (1, 2)]
    assert [aside.read_text() for aside in asides] == contents
    assert not PATH.exists()
