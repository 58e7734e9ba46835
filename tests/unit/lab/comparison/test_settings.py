import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admin_init import AdminInitError
from admin_init.lab.comparison.config import (
    Comparison,
    check_unchanged,
    read_settings,
    write_settings,
)
from admin_init.lab.comparison.criteria import Criteria
from admin_init.lab.comparison.grid import Grid
from admin_init.translation.backend import FairseqConfig

FULL = Comparison(
    output="out",
    grid=Grid(width=[32, 64], precision=["bf16-mixed"]),
    fairseq=FairseqConfig(overrides={"encoder_layers": 2}),
    optimization={"betas": [0.9, 0.98]},
    max_minutes=2.5,
    share="2/3",
)


def test_what_is_written_is_read() -> None:
    write_settings(FULL, entropy=4.25)
    assert read_settings(Path("out")) == (FULL, 4.25)


@pytest.mark.parametrize(
    "changed",
    [
        {"title": "Other"},
        {"grid": Grid(seed=[7])},
        {"share": "1/2"},
        {"workers": 9},
        {"threads": 9},
        {"monitor_every": 50},
        {"criteria": Criteria(relapse=1.0)},
    ],
)
def test_what_decides_nothing_of_a_run_may_change(changed: dict[str, Any]) -> None:
    write_settings(FULL, entropy=4.0)
    check_unchanged(replace(FULL, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_minutes": None}, "`max_minutes` was 2.5 and is now None"),
        ({"precision": "bf16-true"}, "`precision` was 32-true and is now bf16-true"),
        ({"sensitivity": True}, "`sensitivity` was False and is now True"),
        ({"optimization": {"betas": (0.9, 0.99)}}, r"`optimization` was .*0\.98.*is .*0\.99"),
    ],
)
def test_what_decides_it_may_not(changed: dict[str, Any], message: str) -> None:
    write_settings(FULL, entropy=4.0)
    with pytest.raises(AdminInitError, match=message):
        check_unchanged(replace(FULL, **changed))


def test_a_folder_of_an_earlier_version_goes_on() -> None:
    comparison = Comparison(output="out")
    write_settings(comparison, entropy=4.0)
    path = Path("out/comparison.json")
    values = json.loads(path.read_text())
    for name in ("grid", "precision", "max_minutes", "sensitivity", "monitor_every", "entropy"):
        del values[name]
    del values["checksum"]
    path.write_text(json.dumps(values))
    check_unchanged(comparison)
    with pytest.raises(AdminInitError, match="`max_minutes` was None and is now 1"):
        check_unchanged(replace(comparison, max_minutes=1))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "it is empty"),
        ('{"title":', "it is not valid JSON"),
        ("[1]", "it holds a list"),
        ({"zzz": 1}, "unknown field 'zzz'"),
        ({"corpus": {"kind": "zzz"}}, "`corpus.kind` is 'zzz': must be one of embedded"),
        ({"max_steps": "many"}, r"`max_steps` is 'many': expected `int \| null`"),
        ({"studies": ["../../x"]}, r"`studies\[0\]` is '\.\./\.\./x': must be one of"),
        ({"entropy": 0}, "`entropy` must be a positive number, but is 0"),
        ({"entropy": "4"}, "`entropy` must be a positive number, but is '4'"),
        ({"grid": None}, "`grid` is None: expected `object`"),
        ({"max_steps": -1}, "`max_steps` must be at least 1"),
    ],
)
def test_settings_that_cannot_be_used_are_named(content: Any, fault: str) -> None:
    write_settings(FULL, entropy=4.0)
    path = Path("out/comparison.json")
    if isinstance(content, dict):
        values = json.loads(path.read_text())
        del values["checksum"]
        content = json.dumps(values | content)
    path.write_text(content)
    with pytest.raises(AdminInitError, match=rf"out/comparison\.json cannot.*{fault}.*Remove the"):
        read_settings(Path("out"))


def test_edited_settings_are_named() -> None:
    write_settings(FULL, entropy=4.0)
    path = Path("out/comparison.json")
    path.write_text(path.read_text().replace('"max_steps": 500', '"max_steps": 501'))
    for read in (lambda: read_settings(Path("out")), lambda: check_unchanged(FULL)):
        with pytest.raises(AdminInitError, match="damaged or was edited"):
            read()
