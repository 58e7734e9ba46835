"""Studies as a step of a comparison."""

import os
from dataclasses import replace
from pathlib import Path

from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid
from admin_init.lab.comparison.runner import Outcome
from admin_init.lab.report.page import write_report
from admin_init.lab.studies.steps import load_studies, run_studies

COMPARISON = Comparison(
    output="out",
    grid=Grid(residual=["post", "admin"], seed=[1, 2]),
    transformer={"dim": 16},
    studies=["dependency"],
)


def test_a_study_of_the_grids_styles_is_part_of_the_report() -> None:
    run_studies(COMPARISON)
    (step,) = load_studies(COMPARISON)
    assert {row["style"] for row in step.summary} == {"post", "admin"}
    write_report(COMPARISON, Outcome([], {}, 4.0))
    page = Path("out/report.html").read_text()
    assert "At initialization: dependency" in page
    assert step.sentences[0].replace("'", "&#39;") in page


def test_what_was_studied_before_is_kept_unless_the_grid_has_changed() -> None:
    run_studies(COMPARISON)
    found = Path("out/studies/dependency/dependency.json")
    os.utime(found, (0, 0))
    run_studies(COMPARISON)
    assert found.stat().st_mtime == 0
    run_studies(replace(COMPARISON, grid=Grid(residual=["post"], seed=[1])))
    assert found.stat().st_mtime > 0
    found.write_text("{")
    run_studies(replace(COMPARISON, grid=Grid(residual=["post"], seed=[1])))
    assert found.with_name("dependency.json.damaged-1").read_text() == "{"
    assert load_studies(COMPARISON)[0].sentences


def test_without_studies_there_is_nothing() -> None:
    run_studies(replace(COMPARISON, studies=[]))
    assert load_studies(replace(COMPARISON, studies=[])) == []
    assert not Path("out").exists()
