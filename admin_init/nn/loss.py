"""Label-smoothed cross-entropy (Szegedy et al. 2016, section 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = 64
"""Number of tokens per block, small enough that their logits stay in the processor's cache."""


def label_smoothed_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100
) -> Tensor:
    """Compute the cross-entropy like :func:`torch.nn.functional.cross_entropy`, but faster.

    On a CPU, the gradient is computed together with the loss and overwrites the logits, which
    saves a second tensor of their size. Do not use the logits afterwards; autograd raises an error
    if it needs them. Logits in float16 are not overwritten: unscaled float16 gradients would
    underflow.

    Args:
        logits: Shape (tokens, V). Overwritten if they require a gradient.
        target: Token ids, shape (tokens,), int64.
        label_smoothing: Probability mass spread over all V ids.
        ignore_index: Targets with this id are ignored.

    Returns:
        Mean over the targets, a scalar in float32 or higher precision.

    Raises:
        RuntimeError: On a CPU, ``backward`` is called twice or with ``create_graph``.

    Examples:
        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> label_smoothed_cross_entropy(logits * 1, torch.tensor([0, 3]), label_smoothing=0.1)
        tensor(1.3863, grad_fn=<_InPlaceBackward>)
    """
    in_place = logits.device.type == "cpu" and logits.dtype != torch.float16
    if not in_place or not logits.requires_grad or torch.compiler.is_compiling():
        return F.cross_entropy(
            logits.float() if logits.dtype.itemsize < 4 else logits,
            target,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
    loss: Tensor = _InPlace.apply(logits, target, label_smoothing, ignore_index)  # type: ignore[no-untyped-call]
    return loss


class _InPlace(torch.autograd.Function):
    """Writes the gradient with respect to the logits over the logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, label_smoothing: float, ignore_index: int
    ) -> Tensor:
        counted = target.ne(ignore_index)
        ids = target.where(counted, 0)[:, None]
        loss = torch.zeros((), dtype=torch.promote_types(logits.dtype, torch.float32), device="cpu")
        share = counted.to(loss.dtype) / counted.sum()
        rows = (torch.split(tensor, _ROWS) for tensor in (logits, ids, share))
        for part, index, weight in zip(*rows, strict=True):
            y = part.to(loss.dtype)
            highest, place = y.max(dim=1, keepdim=True)
            expected = (1 - label_smoothing) * y.gather(1, index)
            expected += label_smoothing * y.mean(dim=1, keepdim=True)
            # Writes into `part` itself if the types are the same.
            softmax = torch.softmax(y, dim=1, out=y)
            log_z = highest - softmax.gather(1, place).log()
            loss += ((log_z - expected)[:, 0] * weight).sum()
            softmax -= label_smoothing / y.shape[1]
            softmax.scatter_add_(1, index, torch.full_like(expected, label_smoothing - 1))
            part.copy_(softmax.mul_(weight[:, None]))
        ctx.gradient = logits.detach()
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "This loss has no second derivatives, so it does not support `create_graph`. Use "
                "torch.nn.functional.cross_entropy for second derivatives."
            )
        if ctx.gradient is None:
            raise RuntimeError(
                "The gradient of this loss overwrites the logits, so there is no second backward, "
                "even with `retain_graph`. Call `backward` once, or compute the loss again."
            )
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(upstream), None, None, None
