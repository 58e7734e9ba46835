from __future__ import annotations

import logging
import sys
import warnings

import pytest

from admin_init.cli.chatter import silence_chatter

NOISE = [
    ("pytorch_lightning.utilities._pytree", "`isinstance(treespec, LeafSpec)` is deprecated, use"),
    (
        "pytorch_lightning.trainer.connectors.data_connector",
        "The 'val_dataloader' does not have many workers which may be a bottleneck.",
    ),
    ("torch.nn.functional", "Support for mismatched key_padding_mask and attn_mask is deprecated."),
    (
        "pytorch_lightning.utilities.model_summary.model_summary",
        "Precision bf16-mixed is not supported by the model summary.  Estimated model size in MB",
    ),
    (
        "torch.optim.lr_scheduler",
        "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0",
    ),
]


def warn(module: str, message: str) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence_chatter()
        warnings.warn_explicit(message, UserWarning, "file.py", 1, module=module)
    return seen


@pytest.mark.parametrize(("module", "message"), NOISE)
def test_warnings_about_libraries_are_left_out(module: str, message: str) -> None:
    assert not warn(module, message)
    assert warn("my.module", message)
    assert warn(module, f"Something else: {message}")


@pytest.mark.parametrize("name", ["pytorch_lightning", "lightning.pytorch"])
def test_advertisements_are_left_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    silence_chatter()
    silence_chatter()
    logger = logging.getLogger(f"{name}.utilities.rank_zero")
    assert len(logger.filters) == len(set(map(id, logger.filters)))
    kept = ["GPU available: True (cuda), used: True", "`Trainer.fit` stopped", "Seed set to 1"]
    with caplog.at_level(logging.INFO, logger.name):
        for message in (
            "💡 Tip: For seamless cloud logging, try installing [litlogger]",
            "GPU available: False, used: False",
            "TPU available: False, using: 0 TPU cores",
            "`Trainer(val_check_interval=1.0)` was configured so validation will run at the end",
            *kept,
        ):
            logger.info(message)
    assert caplog.messages == kept


class Finalized:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_the_death_of_a_loader_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: said.append(str(args.exc_value)))
    silence_chatter()
    silence_chatter()
    Finalized(RuntimeError("DataLoader worker (pid 7069) is killed by signal: Terminated. "))
    Finalized(RuntimeError("something else"))
    assert said == ["something else"]
