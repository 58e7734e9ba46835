"""Dropout (Srivastava et al. 2014) with a fast random generator on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LANES = 4
"""Number of 16-bit masks per 64-bit random number."""


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Apply dropout like :func:`torch.nn.functional.dropout`, with other random numbers.

    On a CPU, torch draws one random number per element on one thread, which takes longer than
    everything else in a small Transformer except its matrix products. Here, one random number makes
    the masks of four elements, so ``p`` is rounded to 16 bits.

    Args:
        x: Any shape.
        p: Probability that an element is set to 0; the others are divided by ``1 - p``.
        training: Whether to apply dropout.

    Returns:
        A tensor of the shape of ``x``.
    """
    if not training or p in (0, 1) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    size = -(-x.numel() // _LANES)
    numbers = torch.empty(size, dtype=torch.int64, device="cpu").random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    # Integers are faster to convert than booleans.
    kept = torch.ge(bits, round(p * 2**16) - 2**15, out=bits)
    return (x * kept.to(x.dtype)).mul_(1 / (1 - p))
