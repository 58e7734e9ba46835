import json
import math
import os
import stat
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from admin_init import AdminProfile, ProfileError, SiteProfile


def a_profile(**changes: Any) -> AdminProfile:
    sites = (
        SiteProfile("encoder.layers.0.self_attn", "encoder", 0.5, 1.0, 320, 0.9),
        SiteProfile("encoder.layers.0.ffn", "encoder", 0.25, math.sqrt(1.4), 320),
    )
    return AdminProfile(**{"sites": sites, **changes})


def test_signature_says_how_the_profile_was_made() -> None:
    signature = a_profile(batches=3, rule="paper", dtype="bf16").signature
    assert signature == (
        f"rule:paper|batches:3|elements:640|dtype:bf16|version:{version('admin-init')}"
    )
    assert a_profile().signature.startswith("rule:reference|batches:1|elements:640|dtype:fp32|")


def test_the_table_has_a_row_per_site_and_ends_in_the_signature() -> None:
    head, *rows, signature = str(a_profile()).splitlines()
    assert head.split() == ["site", "stack", "Var[f]", "omega", "elements"]
    assert [row.split() for row in rows] == [
        ["encoder.layers.0.self_attn", "encoder", "0.5", "1.0000", "320"],
        ["encoder.layers.0.ffn", "encoder", "0.25", "1.1832", "320"],
    ]
    assert len({len(line) for line in (head, *rows)}) == 1
    assert signature == a_profile().signature


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    a_profile().save(path)
    assert AdminProfile.load(path) == a_profile()
    assert AdminProfile.load(str(path)) == a_profile()
    assert os.listdir(path.parent) == ["profile.json"]
    a_profile(batches=2).save(path)
    assert AdminProfile.load(path).batches == 2


def test_whoever_may_read_the_folder_may_read_the_file(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        a_profile().save(tmp_path / "profile.json")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "profile.json").stat().st_mode) == 0o644


def test_the_dictionary_holds_primitives_only() -> None:
    values = a_profile().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert AdminProfile.from_dict(values) == a_profile()


def test_integers_are_numbers_too() -> None:
    values = a_profile().to_dict()
    values["sites"][0]["omega"] = 1
    assert AdminProfile.from_dict(values).sites[0].omega == 1


def first_site(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["sites"][0].update(changes)


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda values: values.pop("rule"), "`rule` is missing"),
        (lambda values: values.update(rule="magic"), "`rule` is 'magic'"),
        (lambda values: values.update(rule=None), "`rule` is None: expected `str`"),
        (lambda values: values.update(speed=3), "unknown field 'speed'"),
        (lambda values: values.update(batches="one"), "`batches` is 'one': expected `int`"),
        (lambda values: values.update(batches=True), "`batches` is True: expected `int`"),
        (lambda values: values.update(batches=0), "`batches` must be at least 1, but is 0"),
        (lambda values: values.update(dtype=32), "`dtype` is 32: expected `str`"),
        (lambda values: values.update(sites={}), "`sites` is {}: expected `array`"),
        (lambda values: values.update(sites=[]), "there are no sites"),
        (lambda values: values.update(sites=[3]), r"`sites\[0\]` is 3: expected `object`"),
        (lambda values: values["sites"].append(values["sites"][0]), "two sites have the same name"),
        (first_site(omega=-1.5), "omega of `encoder.layers.0.self_attn` must be positive"),
        (first_site(omega=0.0), "must be positive, but is 0.0"),
        (first_site(omega=math.nan), "must be positive, but is nan"),
        (first_site(omega=math.inf), "must be positive, but is inf"),
        (first_site(omega="1"), r"`sites\[0\].omega` is '1': expected `float`"),
        (first_site(omega=10**400), "holds no profile"),
        (first_site(variance=-0.1), "variance of `encoder.layers.0.self_attn` is -0.1"),
        (first_site(variance=math.nan), "variance of `encoder.layers.0.self_attn` is nan"),
        (first_site(shortcut_variance=math.inf), "shortcut variance of .* is inf"),
        (first_site(elements=-1), "has -1 elements"),
        (first_site(elements=1.5), r"`sites\[0\].elements` is 1.5: expected `int`"),
        (first_site(name=7), r"`sites\[0\].name` is 7: expected `str`"),
        (first_site(colour="red"), "SiteProfile: unknown field 'colour'"),
        (
            lambda values: values["sites"][1].pop("omega"),
            r"`sites\[1\]` is .*: object missing required field `omega`",
        ),
    ],
)
def test_a_file_with_wrong_content_is_refused_by_name(
    tmp_path: Path, break_: Callable[[dict[str, Any]], object], message: str
) -> None:
    values = a_profile().to_dict()
    break_(values)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ProfileError, match=message) as error:
        AdminProfile.load(path)
    assert str(path) in str(error.value)


def test_all_problems_are_named_at_once() -> None:
    values = a_profile().to_dict()
    del values["rule"]
    values["speed"] = 3
    with pytest.raises(ProfileError, match=r"unknown field 'speed'.*`rule` is missing"):
        AdminProfile.from_dict(values)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe\x00", b"[" * 100_000],
    ids=["empty", "cut", "list", "number", "null", "string", "binary", "deep"],
)
def test_a_file_without_a_profile_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=r"profile.json holds no profile of this package"):
        AdminProfile.load(path)


def test_a_truncated_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    a_profile().save(path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ProfileError, match="holds no profile"):
        AdminProfile.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"There is no profile at .*nowhere.json"):
        AdminProfile.load(tmp_path / "nowhere.json")
    with pytest.raises(ProfileError, match="cannot be read"):
        AdminProfile.load(tmp_path)


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        a_profile().batches = 2  # type: ignore[misc]


def test_a_number_that_changed_in_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    a_profile().save(path)
    values = json.loads(path.read_text())
    values["sites"][0]["elements"] += 1
    path.write_text(json.dumps(values))
    with pytest.raises(ProfileError, match=r"profile\.json .* damaged or was edited.*`checksum`"):
        AdminProfile.load(path)
    del values["checksum"]
    path.write_text(json.dumps(values))
    assert AdminProfile.load(path).elements == a_profile().elements + 1


@pytest.mark.parametrize("field", ["name", "stack", "dtype", "version"])
def test_what_a_terminal_would_obey_is_refused_and_not_shown(field: str, tmp_path: Path) -> None:
    evil = "\x1b]0;pwn\x07\x1b[2Ja"
    values = a_profile().to_dict()
    (values["sites"][0] if field in ("name", "stack") else values)[field] = evil
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ProfileError, match="cannot be printed") as refused:
        AdminProfile.load(path)
    assert str(refused.value).isprintable()
