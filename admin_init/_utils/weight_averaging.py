"""The average of several checkpoints of one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from admin_init._utils.checkpoints import read_checkpoint, write_checkpoint
from admin_init.errors import AdminInitError

AVERAGED = "averaged"
"""The key under which a checkpoint lists those that it is the average of."""

_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "hyper_parameters")


def average_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Average the weights of checkpoints (Vaswani et al. 2017, section 6.1), omegas as all others.

    Args:
        paths: The checkpoints, in the order of training. One at a time is held in memory, beside
            the sums in float64.

    Returns:
        A checkpoint with the weights, each rounded to its type, and without an optimizer's state.
        What is no floating-point number, and the hyper-parameters, are those of the last one. Under
        ``averaged`` it lists name, epoch and update of those that went in.

    Raises:
        AdminInitError: There is none, one cannot be read, or they are not of one model.
    """
    if not paths:
        raise AdminInitError("There must be at least one checkpoint to average, but there is none.")
    sums: dict[str, Tensor] = {}
    members: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for path in paths:
        last.clear()  # or two would be in memory while the next one is read
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
        destination: Checkpoint that is written.

    Returns:
        Name, epoch and update of those that went in.

    Raises:
        AdminInitError: See :func:`average_checkpoints`.
    """
    average = average_checkpoints(paths)
    write_checkpoint(average, destination)
    members: list[dict[str, Any]] = average[AVERAGED]
    return members


def newest_checkpoints(folder: str | os.PathLike[str], count: int) -> list[Path]:
    """Find the checkpoints of the latest updates, by what they say themselves.

    Of several after the same update one counts, and averages do not.

    Args:
        folder: Where a run has left its checkpoints, ``*.ckpt``.
        count: How many.

    Returns:
        The last ``count``, or as many as there are, in the order of training.

    Raises:
        AdminInitError: ``count`` is below 1, there is no checkpoint, or one cannot be read.
    """
    if count < 1:
        raise AdminInitError(f"At least 1 checkpoint must be averaged, but {count} were asked for.")
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
                f"one and {shapes[1]} in the other. Average checkpoints of one run."
            )
