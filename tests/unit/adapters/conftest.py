"""Shared by the tests of torch.nn's layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of torch's fused kernels for inference, as they come."""
    calls: list[str] = []

    def spy(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            calls.append(kernel.__name__)
            return kernel(*args, **options)

        return run

    for name in ("_transformer_encoder_layer_fwd", "_nested_tensor_from_mask"):
        monkeypatch.setattr(torch, name, spy(getattr(torch, name)))
    return calls
