"""Values that nobody expects in profiles, indices, manifests and recipes."""

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from _helpers.command_line import call
from _helpers.nasty_values import VALUE, attempt, examine, fill, with_a_nasty_place
from hypothesis import strategies as st

from admin_init.admin_profile import AdminProfile
from admin_init.translation.data.databin import IndexedDataset
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.recipe_cli import recipe_cli

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def test_profiles(here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]) -> None:
    whole = AdminProfile.load(here / "run/admin_profile.json").to_dict()
    outcomes = []

    def check(values: Any) -> None:
        path = Path("profile.json")
        path.write_text(json.dumps(values))
        profile, said = attempt(lambda: AdminProfile.load(path))
        outcomes.append("refused" if said else "read")
        if said:
            assert "profile.json" in said
            return
        assert profile.to_dict() == values | {"sites": values["sites"]}
        assert profile.signature in str(profile)

    nested = st.recursive(VALUE, lambda inner: st.lists(inner, max_size=3), max_leaves=9)
    number = examine(check, st.one_of(with_a_nasty_place(whole), nested), tries(400, 60))
    fill(cells, "Profiles", number, outcomes)


def test_indices(tries: Callable[[int, int], int], cells: Callable[..., None]) -> None:
    outcomes = []
    number = st.sampled_from([0, 1, 2, 3, -1, 2**31 - 1, -(2**31)])
    header = st.tuples(
        st.sampled_from([b"MMIDIDX\0\0", b"MMIDIDX\0\1", b"TNTIDX\0\0\0"]),
        st.sampled_from([0, 1, 2, 2**64 - 1]),
        st.integers(0, 12),
        st.sampled_from([0, 1, 2, 3, 2**31, 2**63, 2**64 - 1]),
    )

    def check(parts: Any) -> None:
        head, sizes, starts, content = parts
        index = struct.pack("<9sQBQ", *head) + struct.pack(f"<{len(sizes)}i", *sizes)
        index += struct.pack(f"<{len(starts)}q", *starts)
        Path("x.idx").write_bytes(index)
        Path("x.bin").write_bytes(content)
        sentences, said = attempt(lambda: [ids.tolist() for ids in IndexedDataset("x", 256)])
        outcomes.append("refused" if said else "read")
        if said:
            assert "x.idx" in said or "x.bin" in said
            return
        width = {1: 1, 2: 1, 3: 2, 8: 2, 4: 4, 9: 4, 5: 8, 10: 8}[head[2]]
        assert [len(ids) for ids in sentences] == sizes
        assert [i for ids in sentences for i in ids] == [
            int.from_bytes(content[at : at + width], "little")
            for at in range(0, len(content), width)
        ]

    def consistent(drawn: Any) -> Any:
        """Of which many can be read."""
        code, sizes, content = drawn
        width = np.dtype({1: "u1", 8: "u2", 9: "u4"}[code]).itemsize
        starts = [width * sum(sizes[:i]) for i in range(len(sizes))]
        filled = (content * 99)[: width * sum(sizes)]
        return (b"MMIDIDX\0\0", 1, code, len(sizes)), sizes, starts, filled

    parts = st.tuples(
        header, st.lists(number, max_size=3), st.lists(number, max_size=3), st.binary(max_size=9)
    )
    sound = st.tuples(
        st.sampled_from([1, 8, 9]),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from([b"\1\0\0\0", b"\1\2\3\4", b"\xff\0\0\0"]),
    ).map(consistent)
    fill(cells, "Indices", examine(check, st.one_of(parts, sound), tries(400, 60)), outcomes)


def test_manifests(
    here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    path, outcomes = here / "bin/prepare.json", []

    def check(values: Any) -> None:
        path.write_text(json.dumps(values))
        data = TranslationDataModule(here / "bin", "en", "de")
        _, said = attempt(lambda: (data.prepare_data(), data.tokenizer.encode("A man.")))
        outcomes.append("refused" if said else "read")
        assert not said or str(here / "bin") in said

    whole = json.loads(path.read_text())
    del whole["checksum"]  # which knows all of them
    number = examine(check, with_a_nasty_place(whole), tries(300, 40))
    fill(cells, "Manifests", number, outcomes)


def test_recipes(
    here: Path,
    tries: Callable[[int, int], int],
    cells: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, outcomes = yaml.safe_load((here / "fit.yaml").read_text()), []
    # Not those that mean "as large as you like", which no test has the memory for.
    small = VALUE.filter(lambda value: not (isinstance(value, int) and value > 7))
    fields = [("model", "transformer", key) for key in recipe["model"]["transformer"]]
    fields += [("model", "optimization", key) for key in recipe["model"]["optimization"]]
    fields += [("data", key) for key in recipe["data"]]
    fields += [("model",), ("data",), ("trainer",), ("model", "label_smoothing")]
    fields += [("trainer", key) for key in ("max_steps", "callbacks", "val_check_interval")]

    def check(drawn: Any) -> None:
        field, value = drawn
        values = json.loads(json.dumps(recipe))
        inner = values
        for key in field[:-1]:
            inner = inner[key]
        inner[field[-1]] = value
        Path("nasty.yaml").write_text(yaml.safe_dump(values))
        built, said = None, ""
        # As jsonargparse ends the process where it refuses a value.
        with contextlib.suppress(SystemExit):
            built, said = attempt(lambda: recipe_cli(["--config", "nasty.yaml"], run=False))
        said += capsys.readouterr().err
        assert built or any(name in said for name in (field[-1], "nasty.yaml", 'key: ""'))
        outcomes.append("built" if built else "refused")

    number = examine(check, st.tuples(st.sampled_from(fields), small), tries(100, 3))
    fill(cells, "Recipes", number, outcomes)


def test_settings_of_a_preparation(
    tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    outcomes = []
    fields = ["vocabulary_size", "max_length", "max_ratio", "valid_every", "lowercase", "workers"]
    fields += ["shard_size", "sample_sentences", "subwords", "length_unit", "destination"]

    def check(drawn: tuple[str, Any]) -> None:
        field, value = drawn
        settings = {
            "destination": f"out-{len(outcomes)}",
            "corpus": {"train": 60, "valid": 5, "test": 5},
        }
        recipe: dict[str, Any] = {**settings, "vocabulary_size": 200, field: value}
        Path("nasty.yaml").write_text(yaml.safe_dump(recipe))
        done = call("prepare", "--config", "nasty.yaml")
        assert done.code in (0, 2)
        assert "Traceback" not in done.err
        outcomes.append("refused" if done.code else "prepared")

    small = VALUE.filter(lambda value: value != 10**400)
    number = examine(check, st.tuples(st.sampled_from(fields), small), tries(100, 5))
    fill(cells, "Settings of a preparation", number, outcomes)
