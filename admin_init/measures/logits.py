"""The normaliser of the output distribution."""

from __future__ import annotations

from torch import Tensor


def output_log_z(logits: Tensor) -> Tensor:
    r"""Compute the mean of :math:`\log Z = \log \sum_v \exp y_v` of output logits y, in float32.

    The loss does not see a shift of all the logits, so log Z can drift until training diverges
    (Chowdhery et al., arXiv 2204.02311; Wortsman et al., arXiv 2309.14322, section 3.1).

    Args:
        logits: Shape (..., V), V token ids.

    Returns:
        Mean over all positions, padding included: a float32 scalar.
    """
    return logits.float().logsumexp(-1).mean()
