"""Dropout (Srivastava et al. 2014) whose masks are quick to draw on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LANES = 4
"""How many masks of 16 bits one random number of 64 bits makes."""


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Do what :func:`torch.nn.functional.dropout` does, with other random numbers.

    On a CPU torch draws one random number an element, on one thread, which takes longer than all
    else that a small Transformer does between its matrix products. Here one makes the masks of four
    elements; so ``p`` is rounded to 16 bits.

    Args:
        x: Any shape.
        p: Probability of an element to be set to 0; the others are divided by ``1 - p``.
        training: Whether to do so at all.
    """
    if not training or p in (0, 1) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    size = -(-x.numel() // _LANES)
    numbers = torch.empty(size, dtype=torch.int64, device="cpu").random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    # Into integers, which are faster to convert than booleans.
    kept = torch.ge(bits, round(p * 2**16) - 2**15, out=bits)
    return (x * kept.to(x.dtype)).mul_(1 / (1 - p))
