"""Dataclasses from JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from admin_init._utils.typed_json import from_json
from admin_init.errors import AdminInitError, CorpusError


@dataclass
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"


INNER = {"size": 1}


@dataclass
class Outer:
    inner: Inner
    several: tuple[Inner, ...] = ()
    share: float = 0.5
    name: str | None = None
    flag: bool = False
    rest: dict[str, Any] = field(default_factory=dict)
    named: dict[str, Inner] = field(default_factory=dict)
    kinds: tuple[Literal["a", "b"], ...] | None = None


def test_a_dataclass_comes_from_json_with_those_that_it_holds() -> None:
    values = {"inner": {"size": 3}, "several": [{"size": 1, "kind": "b"}], "share": 1, "name": "x"}
    assert from_json(Outer, values) == Outer(Inner(3), (Inner(1, "b"),), 1, "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"Outer is \[\]: expected `object`, got `array`."),
        ({}, "Outer is {}: object missing required field `inner`."),
        ({"inner": {}}, "Outer: `inner` is {}: object missing required field `size`."),
        ({"inner": None}, "Outer: `inner` is None: expected `object`, got `null`."),
        ({"inner": {"size": True}}, "Outer: `inner.size` is True: expected `int`, got `bool`."),
        ({"inner": {"size": "3"}}, "Outer: `inner.size` is '3': expected `int`, got `str`."),
        ({"inner": {"size": 1.5}}, "Outer: `inner.size` is 1.5: expected `int`, got `float`."),
        ({"inner": INNER, "share": 10**400}, "`share` is 1000.*: number out of range."),
        (
            {"inner": INNER | {"kind": "c\x1b]0;\n"}},
            r"Outer: `inner.kind` is 'c\\x1b\]0;\\n': must be one of a, b.",
        ),
        ({"inner": INNER | {"kind": []}}, r"`inner.kind` is \[\]: expected `str`, got `array`."),
        ({"inner": INNER, "several": {}}, "`several` is {}: expected `array`, got `object`."),
        ({"inner": INNER, "several": [INNER, 2]}, r"`several\[1\]` is 2: expected `object`"),
        ({"inner": INNER, "several": "\ud800"}, r"Outer is {.*'\\ud800'}: .*surrogates"),
        ({"inner": INNER, "share": None}, "`share` is None: expected `float`, got `null`."),
        ({"inner": INNER, "name": 5}, r"`name` is 5: expected `str \| null`, got `int`."),
        ({"inner": INNER, "flag": 1}, "`flag` is 1: expected `bool`, got `int`."),
        ({"inner": INNER, "rest": "a"}, "`rest` is 'a': expected `object`, got `str`."),
        ({"inner": INNER, "named": {"x": {}}}, r"`named\[...\]`: object missing .* `size`."),
        (
            {"inner": INNER, "named": {"x": INNER | {"kind": "c"}}},
            r"`named\[...\].kind`: must be one of a, b.",
        ),
        ({"inner": INNER, "kinds": ["a", 1]}, r"`kinds\[1\]` is 1: expected `str`, got `int`."),
        ({"inner": INNER, "kinds": ["a", ""]}, r"`kinds\[1\]` is '': must be one of a, b."),
        ({1: 2}, "Outer is {1: 2}: expected `str`"),
        ({"inner": INNER, "a": 1, "b": 2}, "Outer: unknown field 'a'; Outer: unknown field 'b'."),
        ({"inner": INNER | {"speed": 1}}, "Inner: unknown field 'speed'."),
        ({"inner": INNER, "several": [INNER | {"speed": 1}]}, "Inner: unknown field 'speed'."),
        ({"inner": INNER, "named": {"x": INNER | {"speed": 1}}}, "Inner: unknown field 'speed'."),
    ],
)
def test_what_json_has_wrong_is_named(values: Any, message: str) -> None:
    with pytest.raises(AdminInitError, match=message) as refused:
        from_json(Outer, values)
    assert str(refused.value).isprintable()


def test_what_the_dataclass_itself_refuses_stays_as_it_is() -> None:
    @dataclass
    class Strict:
        size: int

        def __post_init__(self) -> None:
            raise CorpusError("`size` is too large.")

    with pytest.raises(CorpusError, match=r"^`size` is too large\.$"):
        from_json(Strict, {"size": 1})


def test_no_field_may_be_missing_where_all_were_written() -> None:
    with pytest.raises(AdminInitError, match="`kind` is missing"):
        from_json(Inner, {"size": 1}, complete=True)
    outer = asdict(Outer(Inner(1), (Inner(1),)))
    assert from_json(Outer, outer, complete=True) == Outer(Inner(1), (Inner(1),))
    del outer["several"][0]["kind"]
    with pytest.raises(AdminInitError, match="Inner: `kind` is missing"):
        from_json(Outer, outer, complete=True)


def test_lists_and_mappings_come_from_json_too() -> None:
    assert from_json(list[float], [1, 2.5]) == [1, 2.5]
    assert math.isnan(from_json(dict[str, float], {"a": math.nan})["a"])
    assert from_json(list[Inner], [{"size": 1}]) == [Inner(1)]
    for hint, value in ((list[float], [1, "2.5"]), (dict[str, float], {"a": True})):
        with pytest.raises(AdminInitError, match="expected `float`"):
            from_json(hint, value)
    with pytest.raises(AdminInitError, match=r"list: `\[0\]` is {}: object missing"):
        from_json(list[Inner], [{}])
