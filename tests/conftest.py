"""Shared by all tests."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Before torch is imported: workers of pytest-xdist share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts background jobs with Ctrl-C ignored, and what tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # What is imported by now stays, and takes the garbage collector a fifth of the time.
    gc.freeze()


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def lightning(request: pytest.FixtureRequest) -> ModuleType:
    """Either distribution of Lightning."""
    return importlib.import_module(request.param)


@pytest.fixture(autouse=True)
def _leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, and see that no environment variable is left behind."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    # Lightning, pytest and joblib set these themselves, and xdist's workers inherit some.
    expected = {
        "KMP_INIT_AT_FORK",
        "PYTEST_CURRENT_TEST",
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "PYTORCH_NVML_BASED_CUDA_CHECK",
        "TORCHINDUCTOR_CACHE_DIR",
    }
    leaked = {key for key in os.environ if os.environ[key] != before.get(key)} - expected
    for key in leaked | (expected & set(os.environ)) - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(key, raising=False)
    assert not leaked, f"environment variables were left behind: {leaked}"


@pytest.fixture
def cells(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Fill cells of a table in the docs, see docs/tables.py.

    To be called where all has been asserted, as ``cells("Models", "BERT", fold="yes")``.
    """

    def fill(table: str, row: str, **columns: object) -> None:
        texts = {name.replace("_", " "): str(text) for name, text in columns.items()}
        record_property("cells", json.dumps([table, row, texts]))

    return fill


@pytest.fixture(scope="session")
def data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 training, 30 validation and 30 test pairs of the embedded corpus."""
    from admin_init.translation.corpora.config import CorpusConfig
    from admin_init.translation.preparation.prepare import prepare

    folder = tmp_path_factory.mktemp("corpus") / "data-bin"
    prepare(CorpusConfig(train=200, valid=30, test=30).open(), folder, vocabulary_size=300)
    return folder
