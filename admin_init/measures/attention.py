"""Attention logits, whose growth precedes divergence, and entropy, whose collapse does.

Shapes: N sequences, H heads, T queries, S keys, d_h channels a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def largest_attention_logit(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Compute the largest attention logit, :math:`\max \langle q, k\rangle / \sqrt{d_h}`.

    Its growth precedes divergence at high learning rates (Dehghani et al., arXiv 2302.05442;
    Wortsman et al., arXiv 2309.14322, section 3.1).

    Args:
        query: Shape (N, H, T, d_h).
        key: Shape (N, H, S, d_h).
        mask: As for :func:`torch.nn.functional.scaled_dot_product_attention`: True where a query
            may attend to a key, or a float tensor to add to the logits. Broadcasts to
            (N, H, T, S).

    Returns:
        A float32 scalar.

    Examples:
        >>> query, key = torch.eye(4).view(1, 1, 4, 4), torch.eye(4).view(1, 1, 4, 4)
        >>> largest_attention_logit(query, key)
        tensor(0.5000)
    """
    return attention_logits(query, key, mask).amax()


def attention_entropy(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Compute the mean entropy of the attention weights A, :math:`-\sum_s A_s \log A_s`, in nats.

    Near 0, every query attends to a single key, and training becomes unstable (Zhai et al.,
    arXiv 2303.06296).

    Args:
        query: Shape (N, H, T, d_h).
        key: Shape (N, H, S, d_h).
        mask: As for :func:`largest_attention_logit`. Every query must have at least one key.

    Returns:
        Mean over sequences, heads and queries: a float32 scalar.
    """
    weights = attention_logits(query, key, mask).softmax(-1)
    entropy: Tensor = torch.special.entr(weights).sum(-1).mean()
    return entropy


def attention_logits(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention logits in float32, with -inf for masked keys.

    Args:
        query: Shape (N, H, T, d_h).
        key: Shape (N, H, S, d_h).
        mask: As for :func:`largest_attention_logit`.

    Returns:
        Shape (N, H, T, S).
    """
    # Autocast would compute the product in half precision.
    with torch.autocast(query.device.type, enabled=False):
        logits: Tensor = query.float() @ key.float().transpose(-2, -1) / query.shape[-1] ** 0.5
    if mask is None:
        return logits
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, float("-inf"))
    return logits + mask


def output_log_z(logits: Tensor) -> Tensor:
    r"""Compute the mean of :math:`\log Z = \log \sum_v \exp y_v` of output logits y, in float32.

    A shift of all logits leaves the loss unchanged, so log Z can drift until training diverges
    (Chowdhery et al., arXiv 2204.02311; Wortsman et al., arXiv 2309.14322, section 3.1).

    Args:
        logits: Shape (..., V), where V is the vocabulary size.

    Returns:
        Mean over all positions, padding included: a float32 scalar.
    """
    return logits.float().logsumexp(-1).mean()
