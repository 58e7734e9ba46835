"""The average of several checkpoints of one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from admin_init.errors import AdminInitError
from admin_init.translation.checkpoint import read_checkpoint


def average_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Average the weights of checkpoints; omegas are averaged as all the others.

    Args:
        paths: The checkpoints, in the order of training. One at a time is held in memory.

    Returns:
        A checkpoint: the average in float64, rounded to the type of each weight; what is no
        floating-point number, and the hyper-parameters, from the last. No optimizer's state.

    Raises:
        AdminInitError: There is none, one cannot be read, or they are not of one model.
    """
    if not paths:
        raise AdminInitError("There must be at least one checkpoint to average, but there is none.")
    sums: dict[str, Tensor] = {}
    for path in paths:
        checkpoint = read_checkpoint(path)
        weights = checkpoint["state_dict"]
        shapes = {name: weight.shape for name, weight in weights.items()}
        if sums and shapes != {name: total.shape for name, total in sums.items()}:
            raise AdminInitError(f"{path} is of another model than {paths[0]}: weights differ.")
        for name, weight in weights.items():
            if weight.is_floating_point():
                sums[name] = sums.get(name, 0) + weight.double()
            else:
                sums[name] = weight
    kept = ("epoch", "global_step", "pytorch-lightning_version", "hyper_parameters")
    return {
        key: value
        for key, value in checkpoint.items()
        if key in kept or key.startswith("datamodule_hyper_")
    } | {
        "state_dict": {
            name: (sums[name] / len(paths)).to(weight.dtype)
            if weight.is_floating_point()
            else weight
            for name, weight in weights.items()
        }
    }
