"""Exceptions of the package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

_CONTROL = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}
del _CONTROL[ord("\n")]


class AdminInitError(ValueError):
    """Base class of the package's exceptions.

    The message may quote an untrusted file, so control characters are escaped: a terminal would
    obey them.
    """

    def __str__(self) -> str:
        return super().__str__().translate(_CONTROL)


class UnsupportedModelError(AdminInitError):
    """The model cannot be rescaled: Admin does not apply to it, or no adapter supports it."""


class NotPostLNError(UnsupportedModelError):
    """The model's layers are not Post-LN, so there is no shortcut that Admin could rescale."""


class TrainedModelError(AdminInitError):
    """The model is already trained, so rescaling would change the function that it learned."""


class ProfileError(AdminInitError):
    """A profile cannot be measured, read, or matched with a model."""


class FoldError(AdminInitError):
    """Omega cannot be folded into the weights without changing the outputs."""


class NotFiniteError(AdminInitError, FloatingPointError):
    """A model computes NaN or infinity."""


class DivergedError(NotFiniteError):
    """A training run has diverged."""

    exit_code = 1
    """Exit code of the command line; 2 is reserved for invalid commands."""


class OptionError(AdminInitError):
    """An option cannot be parsed; the message is jsonargparse's, in one line.

    Args:
        error: The error that jsonargparse raised.
        arguments: The command line, from which the name of a ``--config`` file is taken.
    """

    def __init__(self, error: Exception, arguments: Sequence[str] = ()) -> None:
        text = " ".join(str(error).split())
        files = [file for option, file in pairwise(arguments) if option == "--config"]
        files += [a.partition("=")[2] for a in arguments if a.startswith("--config=")]
        if files:
            text = text.replace('"<unicode string>"', " or ".join(files))
        for pattern, plain in _PLAINER:
            text = re.sub(pattern, plain, text)
        super().__init__(text)


_PLAINER = (
    (r"<class '(\w+)'>", r"\1"),
    ("NoneType", "null"),
    (r"\bExpected an? ", "Expected "),
    (r"typing\.", ""),
    (r'Parser key "([^"]+)":', r"`\1`:"),
    (
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*? "
        r"Given value type: \S+",
        r"Expected one of \1.",
    ),
)


class CorpusError(AdminInitError):
    """A corpus, a dictionary or a data-bin is unusable or differs from what is expected."""

    exit_code = 2
    """Exit code of the command line."""


class MissingExtraError(AdminInitError, ImportError):
    """A package of an extra is not installed."""


_TRANSLATION = ("filelock", "sacrebleu", "sentencepiece")
_PACKAGES = {"translation": _TRANSLATION, "lab": (*_TRANSLATION, "jinja2", "matplotlib")}


def require_extra(extra: str, *packages: str) -> None:
    """See that an extra is installed, before any work is done that needs it.

    Args:
        extra: The name of the extra.
        packages: The packages that are needed; by default all of the extra.

    Raises:
        MissingExtraError: A package is not installed.
    """
    for package in packages or _PACKAGES[extra]:
        if find_spec(package) is None:
            raise _missing(extra, package)


def import_extra(extra: str, module: str) -> Any:
    """Import a module of a package that comes with an extra.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(extra, module) from error


def _missing(extra: str, module: str) -> MissingExtraError:
    package = "backports.zstd" if "zstd" in module else module.partition(".")[0].replace("_", "-")
    return MissingExtraError(
        f"{package} is not installed. Run `pip install 'admin-init[{extra}]'`."
    )
