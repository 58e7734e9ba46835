"""Filters that keep tips and deprecation warnings of libraries out of the command line's output."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

_WARNINGS = (
    # How we call Lightning, and how Lightning calls torch.
    ("LightningCLI's args parameter is intended", r"pytorch_lightning\.cli"),
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", r"pytorch_lightning\.utilities\._pytree"),
    # Loading memory-mapped batches is no bottleneck.
    (r"The '\w+' does not have many workers", "pytorch_lightning"),
    # How fairseq calls torch, and Lightning its own summary.
    ("Support for mismatched key_padding_mask and attn_mask", r"torch\.nn\.functional"),
    (r"Precision \S+ is not supported by the model summary", r"pytorch_lightning\.utilities"),
    # A gradient scaler skips the first update by design.
    (r"Detected call of `lr_scheduler\.step\(\)` before", r"torch\.optim\.lr_scheduler"),
)
"""Beginnings of warnings, and the modules that raise them."""

_NOTES = re.compile(
    "💡 Tip: "
    "|[GTH]PU available: False"
    r"|`Trainer\(val_check_interval=1\.0\)` was configured"
)
"""Beginnings of Lightning's messages when nothing is wrong."""

_LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning.pytorch.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
)


def silence_chatter() -> None:
    """Hide tips, and warnings on which a user of the command line cannot act.

    Only for processes of the command line: users who import the package see every warning.
    """
    for message, module in _WARNINGS:
        warnings.filterwarnings("ignore", message, module=module)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)
    if not isinstance(sys.unraisablehook, _ToldOnce):
        sys.unraisablehook = _ToldOnce(sys.unraisablehook)


class _ToldOnce:
    """Hook that hides the second report of a DataLoader worker's death.

    The error that ends the run reports it. torch also raises one in a signal handler; if that runs
    in a finalizer, Python prints it with a traceback and continues.
    """

    def __init__(self, tell: Callable[[Any], object]) -> None:
        self.tell = tell

    def __call__(self, unraisable: Any) -> None:
        if "DataLoader worker" not in str(unraisable.exc_value):
            self.tell(unraisable)


def _is_news(record: logging.LogRecord) -> bool:
    return _NOTES.match(record.getMessage()) is None
