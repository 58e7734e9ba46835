"""Keep fairseq from running code in untrusted checkpoints and data-bins.

In fairseq's modules, ``eval`` is replaced by :func:`literal`, the options of every loaded
checkpoint go through :func:`plain_options`, and no dataset is read by a shell.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from admin_init.errors import AdminInitError

_LONGEST = 10_000
_FILE = re.compile(r".*_path|(load_)?pretrained_.+")


class NotPlainError(AdminInitError):
    """A string that fairseq would run as Python is not a plain value."""

    value: str
    """The string."""

    def __init__(self, value: str) -> None:
        shown = value if len(value) <= 200 else f"{value[:200]} ..."
        super().__init__(
            f"{shown!r} is more than a plain value, and fairseq would run it as Python. Give "
            "numbers, strings, True, False or None, or lists, tuples or dictionaries of them."
        )
        self.value = value


def forbid_code() -> None:
    """Keep all loaded modules of fairseq from evaluating strings and running a shell.

    Call it again after more modules have been loaded.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("fairseq", "fairseq_cli"):
            # A module's own name goes before the built-in one.
            vars(module)["eval"] = literal
    # Late: fairseq is made importable by the module that calls this.
    checkpoint_utils: Any = importlib.import_module("fairseq.checkpoint_utils")
    importlib.import_module("fairseq.data").FastaDataset._build_index = _refuse_fasta
    if checkpoint_utils._upgrade_state_dict.__module__ != __name__:
        checkpoint_utils._upgrade_state_dict = _plain_first(checkpoint_utils._upgrade_state_dict)


def literal(text: str, /) -> Any:
    """Return the value of a Python literal, or of a sum of lists, each perhaps times a number.

    Architectures of fairseq are written in such sums: ``[(512, 3)] * 4 + [(768, 3)]``.

    Raises:
        NotPlainError: ``text`` is any other Python, or makes a list of more than 10,000.
        TypeError: ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A string is needed, but this is a {type(text).__name__}.")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise NotPlainError(text) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        match node.op, left, right:
            case ast.Add(), list(), list() if len(left) + len(right) <= _LONGEST:
                return left + right
            case ast.Mult(), list(), int() if len(left) * right <= _LONGEST:
                return left * right
    return ast.literal_eval(node)


def plain_options(options: Any) -> Any:
    """Return a checkpoint's options without the paths that fairseq would read to build the model.

    The contents of these files are already in the weights.

    Args:
        options: Values, in namespaces, mappings and lists.

    Raises:
        AdminInitError: A string refers to another option or an environment variable (``${...}``).
    """
    match options:
        case Namespace():
            return Namespace(**plain_options(vars(options)))
        case Mapping():
            return {
                name: None
                if isinstance(value, str) and _FILE.fullmatch(str(name))
                else plain_options(value)
                for name, value in options.items()
            }
        case list():
            return [plain_options(value) for value in options]
        case str() if "${" in options:
            raise AdminInitError(
                f"A checkpoint's options must be plain values, but one is {options!r}."
            )
    return options


def _plain_first(upgrade: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Apply :func:`plain_options` before fairseq upgrades a checkpoint."""
    omegaconf: Any = importlib.import_module("omegaconf")

    def upgraded(state: Any) -> Any:
        for name in ("args", "cfg"):
            options = state.get(name)
            if isinstance(options, omegaconf.DictConfig):
                options = omegaconf.OmegaConf.to_container(options, resolve=False)
                state[name] = omegaconf.OmegaConf.create(
                    plain_options(options), flags={"allow_objects": True}
                )
            elif options is not None:
                state[name] = plain_options(options)
        return upgrade(state)

    return upgraded


def _refuse_fasta(dataset: Any, path: str) -> NoReturn:
    raise AdminInitError(
        f"{path}.fasta would be read by a shell, which may run its name as a command. Binarize it."
    )
