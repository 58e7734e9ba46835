"""fairseq's commands, a data-bin and a run of its own, for the tests of its plugin."""

import copy
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _helpers.fairseq_training import training

from admin_init.fairseq.__main__ import main

from fairseq.trainer import Trainer  # isort: skip


@pytest.fixture
def fairseq(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The commands, in this process."""

    def run(*arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", ["admin_init.fairseq", *map(str, arguments)])
        main()

    yield run
    os.environ.pop("PYTHONWARNINGS", None)  # which fairseq's iterators set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin of random sentences."""
    folder = tmp_path_factory.mktemp("plugin")
    rng = random.Random(1)
    for split, lines in {"train": 200, "valid": 20, "test": 20}.items():
        for lang in ("en", "de"):
            text = "\n".join(
                " ".join(f"w{rng.randrange(30)}" for _ in range(rng.randint(1, 10)))
                for _ in range(lines)
            )
            (folder / f"{split}.{lang}").write_text(text + "\n")
    splits = [word for s in ("train", "valid", "test") for word in (f"--{s}pref", str(folder / s))]
    arguments = ["-s", "en", "-t", "de", "--joined-dictionary", *splits]
    with pytest.MonkeyPatch.context() as patch:
        command = ["admin_init.fairseq", "preprocess", *arguments]
        patch.setattr(sys, "argv", [*command, "--destdir", str(folder / "data-bin")])
        main()
    return folder / "data-bin"


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of two updates: its checkpoint, and what the trainer began with."""
    saved = tmp_path_factory.mktemp("first")
    seen: dict[str, Any] = {"saved": saved}
    original = Trainer.train_step

    def watched(trainer: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
        if "sample" not in seen:
            seen.update(sample=samples[0], model=copy.deepcopy(trainer.model))
        return original(trainer, samples, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", watched)
        arguments = training(data, saved, "--max-update", 2)
        patch.setattr(sys, "argv", ["admin_init.fairseq", *map(str, arguments)])
        main()
    return seen
