import json
from dataclasses import asdict
from pathlib import Path

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.preparation.manifest import Manifest, Split


def make(folder: Path) -> Manifest:
    settings = {"source_lang": "en", "target_lang": "de", **asdict(PrepareConfig())}
    split = Split(files=["a", "b"], sha256="0", read=12)
    for line in range(1, 13):
        split.drop(line, "empty")
    (folder / "x.bin").write_bytes(b"abc")
    manifest = Manifest(settings=settings, splits={"train": split}, versions={"sacremoses": "1"})
    manifest.seal(folder)
    return manifest


def test_comes_back_from_its_file(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    # The SHA-256 of "abc", from FIPS 180-2.
    assert manifest.outputs["x.bin"].startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    assert "dropped as empty: 12 (lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...)" in str(manifest)


def test_damages_are_found(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    assert manifest.damages(tmp_path) == []
    (tmp_path / "x.bin").write_bytes(b"abd")
    assert manifest.damages(tmp_path) == ["x.bin is missing or damaged"]
    (tmp_path / "x.bin").unlink()
    assert manifest.damages(tmp_path) == ["x.bin is missing or damaged"]


def test_one_of_an_older_version_has_the_defaults_of_newer_settings(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    content = json.loads((tmp_path / "prepare.json").read_text())
    del content["checksum"]
    for name in ("subwords", "valid_every", "lowercase"):
        del content["settings"][name]
    for name in ("versions", "learned_from"):
        del content[name]
    del content["splits"]["train"]["drawn"]
    (tmp_path / "prepare.json").write_text(json.dumps(content))
    old = Manifest.load(tmp_path)
    assert manifest.differences(old) == []
    manifest.settings["lowercase"] = True
    assert manifest.differences(old) == ["lowercase is True, but was False"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("settings", "min_length"), None),
        (("settings", "subwords"), []),
        (("splits", "train", "read"), "many"),
        (("outputs",), None),
        (("outputs", "x.bin"), 1),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    make(tmp_path)
    content = inner = json.loads((tmp_path / "prepare.json").read_text())
    del content["checksum"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "prepare.json").write_text(json.dumps(content))
    with pytest.raises(CorpusError, match=r"its prepare\.json cannot be read"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}, "splits": {"a": 1}}'])
def test_what_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "prepare.json").write_text(content)
    with pytest.raises(
        CorpusError, match=r"not a prepared corpus: its prepare\.json cannot be read"
    ):
        Manifest.load(tmp_path)
