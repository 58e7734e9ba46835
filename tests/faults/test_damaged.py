"""Files that were cut, or in which a bit flipped: refused by name, or read as they were."""

import io
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.command_line import call
from _helpers.nasty_values import attempt

from admin_init._utils.checkpoints import load
from admin_init.admin_profile import AdminProfile
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.manifest import Manifest

pytestmark = pytest.mark.faults

LAST = "run/last.ckpt"


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flipped(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


DAMAGES = {"cut at a random byte": cut, "with a random bit flipped": flipped}


def damaged(path: Path, how: str, number: int) -> Iterator[None]:
    """Damage a file in one way after another, and repair it in the end."""
    whole, chance = path.read_bytes(), random.Random(number)
    for _ in range(number):
        path.write_bytes(DAMAGES[how](whole, chance))
        yield
    path.write_bytes(whole)


def outcome(read: Callable[[], Any], expected: Any, name: str) -> str:
    """What comes of reading a damaged file; anything else than these is a failure."""
    found, said = attempt(read)
    if said:
        assert name in said
        return "refused"
    return "read as it was" if found == expected else "read as something else"


def plain(content: Any) -> bytes:
    """The same bytes for the same checkpoint."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_never_taken_for_another(
    how: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    expected, number = plain(load(LAST)), tries(1000, 100)
    outcomes = [
        outcome(lambda: plain(load(LAST)), expected, LAST)
        for _ in damaged(here / LAST, how, number)
    ]
    counts = {what: outcomes.count(what) for what in sorted(set(outcomes))}
    assert not counts.get("read as something else")
    cells(
        "Faults",
        f"Checkpoint {how}",
        tried=number,
        survived=number,
        exit_code=2,
        message=told(counts),
    )


def told(counts: dict[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in counts.items())


COMMANDS = {
    "fit": ["fit", "--config", "fit.yaml", "--ckpt_path", LAST],
    "translate": ["translate", "--checkpoint", LAST],
    "fold": ["fold", LAST, "out"],
    "average": ["average", "--checkpoints", LAST, "--output", "out"],
    "convert": ["convert", LAST, "out"],
}


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.slow] if c == "fit" else []) for c in COMMANDS],
)
def test_every_command_names_a_damaged_checkpoint(
    command: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    tried = 0
    for how in DAMAGES:
        for _ in damaged(here / LAST, how, tries(5, 1)):
            done = call(*COMMANDS[command])
            tried += 1
            if done.code == 0:  # The bit was one that nobody reads.
                assert how != "cut at a random byte"
                continue
            assert done.code == 2
            assert f"{LAST} cannot be read as a checkpoint" in done.err
            assert "Traceback" not in done.err
            message = done.err.strip().splitlines()[-1]
            assert not Path("out").exists()
        Path("out").unlink(missing_ok=True)
    cells(
        "Faults",
        f"Damaged checkpoint to `{command}`",
        tried=tried,
        survived=tried,
        exit_code=2,
        message=message,
    )


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_profile_is_never_taken_for_another(
    how: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    path, number = here / "run/admin_profile.json", tries(1000, 100)
    expected = AdminProfile.load(path)
    outcomes = [
        outcome(lambda: AdminProfile.load(path), expected, str(path))
        for _ in damaged(path, how, number)
    ]
    counts = {what: outcomes.count(what) for what in sorted(set(outcomes))}
    assert not counts.get("read as something else")
    cells(
        "Faults",
        f"Profile {how}",
        tried=number,
        survived=number,
        exit_code=2,
        message=told(counts),
    )


def sentences(folder: Path) -> Any:
    """All that a run on a folder trains on and is judged by."""
    data = TranslationDataModule(folder, "en", "de")
    data.prepare_data()
    pairs = {split: data.pairs(split) for split in ("train", "valid", "test")}
    ids = {
        split: [ids.tolist() for side in (both.source, both.target) for ids in side]
        for split, both in pairs.items()
    }
    dictionary = data.source_dictionary
    words = [dictionary[i] for i in range(len(dictionary))]
    return ids, words, data.references("valid"), data.tokenizer.encode("A man is sleeping.")


@pytest.mark.parametrize("how", DAMAGES)
def test_no_file_of_a_prepared_folder_is_damaged_unseen(
    how: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    names, number = list(Manifest.load(here / "bin").outputs), tries(50, 3)
    expected = sentences(here / "bin")
    for name in names:
        for _ in damaged(here / "bin" / name, how, number):
            assert outcome(lambda: sentences(here / "bin"), expected, name) == "refused"
    cells(
        "Faults",
        f"File of a prepared folder {how}",
        tried=len(names) * number,
        survived=len(names) * number,
        exit_code=2,
        message=told({"refused": len(names) * number}),
    )


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_manifest_is_refused_or_makes_no_difference(
    how: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    number, expected = tries(300, 30), sentences(here / "bin")
    outcomes = [
        outcome(lambda: sentences(here / "bin"), expected, str(here / "bin"))
        for _ in damaged(here / "bin/prepare.json", how, number)
    ]
    counts = {what: outcomes.count(what) for what in sorted(set(outcomes))}
    assert not counts.get("read as something else")
    cells(
        "Faults",
        f"prepare.json {how}",
        tried=number,
        survived=number,
        exit_code=2,
        message=told(counts),
    )


@pytest.mark.parametrize("how", DAMAGES)
def test_a_data_bin_of_fairseq_has_no_sums(
    how: str, here: Path, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    (here / "bin/prepare.json").unlink()
    number, expected = tries(300, 30), sentences(here / "bin")
    for kind, name in (("index", "train.en-de.en.idx"), ("words", "train.en-de.en.bin")):
        outcomes = [
            outcome(lambda: sentences(here / "bin"), expected, "train.en-de.en")
            for _ in damaged(here / "bin" / name, how, number)
        ]
        counts = {what: outcomes.count(what) for what in sorted(set(outcomes))}
        if (kind, how) != ("words", "with a random bit flipped"):
            assert not counts.get("read as something else")
        cells(
            "Faults",
            f"{kind.capitalize()} of a data-bin of fairseq {how}",
            tried=number,
            survived=number - counts.get("read as something else", 0),
            exit_code=2,
            message=told(counts),
        )


def test_a_damaged_dictionary_of_fairseq_is_still_one(here: Path) -> None:
    path = here / "bin/dict.en.txt"
    size = len(Dictionary.load(path))
    for _ in damaged(path, "cut at a random byte", 20):
        assert outcome(lambda: len(Dictionary.load(path)), size, str(path)) != "read as it was"
    shutil.rmtree(here / "bin")
