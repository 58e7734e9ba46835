"""Average of several checkpoints of one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from admin_init._utils.checkpoints import read_checkpoint, write_checkpoint
from admin_init.errors import AdminInitError

AVERAGED = "averaged"
"""Key of an averaged checkpoint that lists the checkpoints in the average."""

_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "hyper_parameters")


def average_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Average the weights of checkpoints, omegas included (Vaswani et al. 2017, section 6.1).

    Args:
        paths: The checkpoints, in the order of training. Memory holds one checkpoint at a time, and
            the sums in float64.

    Returns:
        A checkpoint with the averaged weights, each rounded to its type, without optimizer state.
        Hyper-parameters and values that are not floating-point come from the last checkpoint.
        ``averaged`` lists the name, epoch and update of each checkpoint in the average.

    Raises:
        AdminInitError: There is no checkpoint, one cannot be read, or they are of different models.
    """
    if not paths:
        raise AdminInitError("There must be at least one checkpoint to average, but none is given.")
    sums: dict[str, Tensor] = {}
    members: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for path in paths:
        last.clear()  # otherwise two would be in memory while the next one is read
        last = _without_optimizer(read_checkpoint(path))
        if members:
            _check_alike(last["state_dict"], sums, path, paths[0])
        _add(last["state_dict"], sums)
        members.append({"name": Path(path).name} | _progress(last))
    return last | {
        "state_dict": {
            name: (sums.pop(name) / len(paths)).to(weight.dtype)
            if weight.is_floating_point()
            else weight
            for name, weight in last["state_dict"].items()
        },
        AVERAGED: members,
    }


def write_average(
    paths: Sequence[str | os.PathLike[str]], destination: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    """Write the average of checkpoints, whole or not at all.

    Args:
        paths: See :func:`average_checkpoints`.
        destination: Output checkpoint.

    Returns:
        Name, epoch and update of each checkpoint in the average.

    Raises:
        AdminInitError: See :func:`average_checkpoints`.
    """
    average = average_checkpoints(paths)
    write_checkpoint(average, destination)
    members: list[dict[str, Any]] = average[AVERAGED]
    return members


def newest_checkpoints(folder: str | os.PathLike[str], count: int) -> list[Path]:
    """Find the last checkpoints of a run, by the number of updates stored in each.

    If several have the same number of updates, one of them counts. Averages are ignored.

    Args:
        folder: Folder with the checkpoints of a run, ``*.ckpt``.
        count: Maximum number of checkpoints.

    Returns:
        The last checkpoints, in the order of training.

    Raises:
        AdminInitError: ``count`` is below 1, there is no checkpoint, or one cannot be read.
    """
    if count < 1:
        raise AdminInitError(f"The number of checkpoints must be at least 1, but is {count}.")
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(Path(folder).glob("*.ckpt")):
        checkpoint = read_checkpoint(path)
        if AVERAGED not in checkpoint:
            progress = _progress(checkpoint)
            found.setdefault((progress["global_step"], progress["epoch"]), path)
    if not found:
        raise AdminInitError(f"There is no checkpoint to average in {folder}.")
    return [found[progress] for progress in sorted(found)[-count:]]


def _without_optimizer(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in checkpoint.items()
        if key in (*_KEPT, "state_dict") or key.startswith("datamodule_hyper_")
    }


def _add(weights: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        if name in sums and weight.is_floating_point():
            sums[name] += weight
        else:
            sums[name] = weight.double() if weight.is_floating_point() else weight


def _progress(checkpoint: dict[str, Any]) -> dict[str, int]:
    return {key: checkpoint.get(key, 0) for key in ("epoch", "global_step")}


def _check_alike(
    weights: dict[str, Tensor],
    others: dict[str, Tensor],
    path: str | os.PathLike[str],
    first: str | os.PathLike[str],
) -> None:
    for name in {**others, **weights}:
        shapes = [tuple(w[name].shape) if name in w else None for w in (weights, others)]
        if shapes[0] != shapes[1]:
            raise AdminInitError(
                f"{path} cannot be averaged with {first}: `{name}` has shape {shapes[0]} in the "
                f"former and {shapes[1]} in the latter. Average checkpoints of one run."
            )
