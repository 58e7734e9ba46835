import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from admin_init.callbacks.atomic_checkpoint_io import WholeCheckpointIO
from admin_init.errors import AdminInitError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    WholeCheckpointIO().save_checkpoint({"a": torch.arange(3)}, tmp_path / "new" / "x.ckpt")
    found = WholeCheckpointIO().load_checkpoint(tmp_path / "new" / "x.ckpt")
    assert found["a"].tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.ckpt"]


def test_nothing_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move from another disk would be a copy, which can end half way."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    WholeCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "x.ckpt")
    assert WholeCheckpointIO().load_checkpoint(tmp_path / "x.ckpt") == {"a": 1}


class Unsafe:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("exploited"),)


def test_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"a": Unsafe()}, tmp_path / "x.ckpt")
    for weights_only in (None, False, True):
        with pytest.raises(AdminInitError, match="more than tensors"):
            WholeCheckpointIO().load_checkpoint(tmp_path / "x.ckpt", weights_only=weights_only)
    assert not Path("exploited").exists()


def test_code_at_an_address_does_not_run_either(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(io: Any, path: str, map_location: Any, weights_only: bool) -> dict[str, Any]:
        asked.append((path, weights_only))
        return {}

    monkeypatch.setattr(TorchCheckpointIO, "load_checkpoint", download)
    for weights_only in (None, False, True):
        WholeCheckpointIO().load_checkpoint("http://x/y.ckpt", weights_only=weights_only)
    assert asked == [("http://x/y.ckpt", True)] * 3
