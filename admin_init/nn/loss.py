"""Label-smoothed cross-entropy (Szegedy et al. 2016, section 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = 64
"""Tokens at once, so that their logits stay in the processor's cache."""


def label_smoothed_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100
) -> Tensor:
    """Compute what :func:`torch.nn.functional.cross_entropy` does, and the gradient with it.

    On a CPU the gradient takes the place of the logits: no second tensor of their size is written
    or read. So the logits must not be needed afterwards; autograd refuses where it needs them.
    Logits in float16 are not overwritten: unscaled float16 gradients would underflow.

    Args:
        logits: Shape (tokens, V). Overwritten where they require a gradient.
        target: Ids, shape (tokens,), int64.
        label_smoothing: Probability mass spread over all V ids.
        ignore_index: Id of the targets that do not count.

    Returns:
        The mean over the targets that count, a scalar; float32 at least.

    Raises:
        RuntimeError: From ``backward``, on a CPU: a second one, or one with ``create_graph``.
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
    """Leaves the gradient with respect to the logits in their place."""

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
            # Written into `part` itself, if the types are the same.
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
                "This loss has no second derivatives, so no `create_graph`: what it hands out is "
                "the gradient itself. Use torch.nn.functional.cross_entropy for them."
            )
        if ctx.gradient is None:
            raise RuntimeError(
                "The gradient of this loss has been handed out already: it takes the place of the "
                "logits, so there is no second backward, even with `retain_graph`."
            )
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(upstream), None, None, None
