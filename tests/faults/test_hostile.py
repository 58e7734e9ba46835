"""Files that would run code where they are unpickled: it does not run, and the error says why."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.command_line import call

from admin_init.admin_profile import AdminProfile
from admin_init.errors import AdminInitError
from admin_init.translation.data.databin import IndexedDataset
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.manifest import Manifest
from admin_init.translation.preparation.shards import IdPairs
from admin_init.translation.subwords.sentencepiece import SentencePiece

pytestmark = pytest.mark.faults


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploited",)


def as_torch_saves_it(path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": Exploit()}, path)


def as_torch_once_saved_it(path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": Exploit()}, path, _use_new_zipfile_serialization=False)


def as_a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Exploit()))


def as_a_pickle_in_ascii(path: Path) -> None:
    path.write_bytes(pickle.dumps(Exploit(), protocol=0))


FORMS = [as_torch_saves_it, as_torch_once_saved_it, as_a_pickle, as_a_pickle_in_ascii]

LAST = "run/last.ckpt"
FIT = ["--config", "fit.yaml"]
COMMANDS = {
    "fit --ckpt_path FILE": ["fit", *FIT, "--ckpt_path", LAST],
    "fit --ckpt_path last": ["fit", *FIT, "--ckpt_path", "last"],
    "validate": ["validate", *FIT, "--ckpt_path", LAST],
    "test": ["test", *FIT, "--ckpt_path", LAST],
    "predict": ["predict", *FIT, "--ckpt_path", LAST],
    "diagnose": ["diagnose", "--recipe", "fit.yaml", "--output", "out", "--checkpoint", LAST],
    "translate": ["translate", "--checkpoint", LAST],
    "fold": ["fold", LAST, "out.ckpt"],
    "average": ["average", "--folder", "run", "--output", "out.ckpt"],
    "convert": ["convert", LAST, "out.pt"],
}
# Each of them parses the whole of Lightning's options.
SECONDS = ("fit --ckpt_path FILE", "validate", "test", "predict", "diagnose")


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.slow] if c in SECONDS else []) for c in COMMANDS],
)
@pytest.mark.usefixtures("here")
def test_a_checkpoint_does_not_run(
    command: str, tries: Callable[[int, int], int], cells: Callable[..., None]
) -> None:
    forms = FORMS[: tries(len(FORMS), 1)]
    for form in forms:
        form(Path(LAST))
        done = call(*COMMANDS[command])
        assert done.code == 2
        assert "run/last.ckpt cannot be read as a checkpoint" in done.err
        assert "holds more than tensors and plain values" in done.err
        assert "Traceback" not in done.err
        assert not Path("exploited").exists()
    cells(
        "Faults",
        f"A checkpoint that would run code, to `{command}`",
        tried=len(forms),
        survived=len(forms),
        exit_code=2,
        message=done.err.strip().splitlines()[-1].replace(f"{Path.cwd()}/", ""),
    )


READERS: dict[str, Callable[[Path], object]] = {
    "a profile": AdminProfile.load,
    "dict.en.txt": Dictionary.load,
    "train.en-de.en.idx": lambda path: IndexedDataset(path.with_suffix("")),
    "sentencepiece.bpe.model": SentencePiece.load,
    "prepare.json": lambda path: Manifest.load(path.parent),
}


@pytest.mark.parametrize("file", READERS)
def test_no_other_file_runs(file: str, tmp_path: Path, cells: Callable[..., None]) -> None:
    for form in FORMS:
        form(tmp_path / file)
        with pytest.raises(AdminInitError) as refused:
            READERS[file](tmp_path / file)
        assert file in str(refused.value) or str(tmp_path) in str(refused.value)
        assert not Path("exploited").exists()
    cells(
        "Faults",
        f"A pickle that would run code as {file}",
        tried=len(FORMS),
        survived=len(FORMS),
        exit_code=2,
        message=str(refused.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "bin"),
    )


def test_a_recipe_does_not_run(cells: Callable[..., None]) -> None:
    commands = ("fit", "compare", "prepare")
    for command in commands:
        Path("evil.yaml").write_text("a: !!python/object/apply:os.mkdir [exploited]\n")
        done = call(command, "--config", "evil.yaml")
        assert done.code == 2
        assert "could not determine a constructor for the tag" in done.err
        assert not Path("exploited").exists()
    cells(
        "Faults",
        "A recipe with a YAML tag that would run code",
        tried=len(commands),
        survived=len(commands),
        exit_code=2,
        message="could not determine a constructor for the tag",
    )


def test_a_shard_that_a_killed_preparation_left_does_not_run() -> None:
    for form in FORMS:
        form(Path("train.000000.ids"))
        with pytest.raises((ValueError, KeyError)):
            IdPairs.load(Path("train.000000.ids"))
        assert not Path("exploited").exists()
