"""Dataclasses from JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from admin_init._utils.typed_json import fits, from_json
from admin_init.errors import AdminInitError


@dataclass
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclass
class Outer:
    inner: Inner
    several: tuple[Inner, ...] = ()
    share: float = 0.5
    name: str | None = None
    flag: bool = False
    rest: dict[str, Any] = field(default_factory=dict)


def test_a_dataclass_comes_from_json_with_those_that_it_holds() -> None:
    values = {"inner": {"size": 3}, "several": [{"size": 1, "kind": "b"}], "share": 1, "name": "x"}
    assert from_json(Outer, values) == Outer(Inner(3), (Inner(1, "b"),), 1, "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "Outer must be a mapping, but is list"),
        ({"speed": 1}, "Outer: unknown field 'speed'; `inner` is missing"),
        ({"inner": {}}, "Inner: `size` is missing"),
        ({"inner": None}, "Inner must be a mapping, but is NoneType"),
        ({"inner": {"size": True}}, "`size` must be a int, but is True"),
        ({"inner": {"size": "3"}}, "`size` must be a int, but is '3'"),
        ({"inner": {"size": 1, "kind": "c"}}, "`kind` is 'c', but must be one of a, b"),
        ({"inner": {"size": 1, "kind": []}}, "`kind` must be a Literal.*, but is "),
        ({"inner": {"size": 1}, "several": {}}, "`several` must be a list, but is dict"),
        ({"inner": {"size": 1}, "several": [{"size": 1}, 2]}, "Inner must be a mapping"),
        ({"inner": {"size": 1}, "share": None}, "`share` must be a float, but is None"),
        ({"inner": {"size": 1}, "name": 5}, r"`name` must be a str \| None, but is 5"),
        ({"inner": {"size": 1}, "flag": 1}, "`flag` must be a bool, but is 1"),
        ({"inner": {"size": 1}, "rest": "a"}, "`rest` must be a dict.*, but is 'a'"),
    ],
)
def test_what_json_has_wrong_is_named(values: Any, message: str) -> None:
    with pytest.raises(AdminInitError, match=message):
        from_json(Outer, values)


def test_no_field_may_be_missing_where_all_were_written() -> None:
    with pytest.raises(AdminInitError, match="`kind` is missing"):
        from_json(Inner, {"size": 1}, complete=True)
    outer = asdict(Outer(Inner(1), (Inner(1),)))
    assert from_json(Outer, outer, complete=True) == Outer(Inner(1), (Inner(1),))
    del outer["several"][0]["kind"]
    with pytest.raises(AdminInitError, match="Inner: `kind` is missing"):
        from_json(Outer, outer, complete=True)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (list[float], [1, 2.5], True),
        (list[float], [1, "2.5"], False),
        (dict[str, float], {"a": float("nan")}, True),
        (dict[str, float], {"a": True}, False),
        (list[Inner], [{"size": 1}], True),
        (list[Inner], [{}], False),
    ],
)
def test_values_fit_a_type_or_not(hint: Any, value: Any, expected: bool) -> None:
    assert fits(hint, value) is expected
