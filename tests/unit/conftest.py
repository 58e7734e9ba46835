"""A unit test trains nothing and starts no process; such tests are in ``integration/``."""

import multiprocessing.process
import os
import subprocess
import sys
from typing import NoReturn

import numpy.testing  # noqa: F401 - older ones start a process when they are imported
import pytest


@pytest.fixture(autouse=True)
def _train_and_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("This trains or starts a process: it belongs in tests/integration.")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    for lightning in ("pytorch_lightning", "lightning.pytorch"):
        if lightning in sys.modules:
            monkeypatch.setattr(sys.modules[lightning].Trainer, "fit", refuse)
