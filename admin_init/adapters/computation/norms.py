"""Recognition of norms by what they compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from admin_init._utils.isolation import trial_pass

_DRAWS, _TOKENS = 4, 3
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.05


@dataclass(frozen=True, eq=False)
class NormFit:
    """A module as a norm: ``gain * standardized(x) + bias`` over one axis."""

    axis: int
    """The axis of the channels, counted from the last (-1)."""
    gain: Tensor
    """Shape (D,), float64."""
    bias: Tensor
    """Shape (D,), float64."""


def fit_norm(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> NormFit | None:
    """Test by its outputs whether a module normalizes its input, and over which axis.

    The module is called on random inputs. It is a norm if each output is a function of one token
    alone, namely the token divided by its standard deviation (after its mean is subtracted) or by
    its root mean square, times a gain and plus a bias per channel.

    Args:
        module: A module that takes one tensor and returns one of the same shape, or a tuple with
            one.
        shape: Shape of its input.
        dtype: Type of its input.

    Returns:
        The axis, the gain and the bias; None if the module computes something else.
    """
    if any(parameter.squeeze().ndim > 1 for parameter in module.parameters()):
        return None  # a matrix, so it mixes channels
    for axis in range(-1, -len(shape), -1):  # axis 0 is that of the batch
        if shape[axis] > 1 and (fit := _fit_axis(module, shape, dtype, axis)) is not None:
            return fit
    return None


def _fit_axis(
    module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, axis: int
) -> NormFit | None:
    # A fixed seed, so that the same model always gets the same answer.
    generator = torch.Generator().manual_seed(0)
    # A norm over one axis takes other sizes of the others, too.
    sizes = [min(size, _TOKENS) for size in shape]
    sizes[axis] = shape[axis]
    x = 1 + 2 * torch.randn(_DRAWS, *sizes, generator=generator, dtype=torch.float64)
    per_token = list(x.shape)
    per_token[axis] = 1
    x = (x * 4 ** torch.rand(per_token, generator=generator, dtype=torch.float64)).to(dtype)
    device = next((p.device for p in module.parameters()), "cpu")
    try:
        with trial_pass(module):
            y = torch.stack([_only_tensor(module.forward(draw.to(device))) for draw in x])
    except Exception:
        return None
    if y.shape != x.shape:
        return None
    tolerance = _TOLERANCE if torch.finfo(dtype).eps < 1e-6 else _HALF_TOLERANCE
    tokens, result = (t.double().cpu().movedim(axis, -1).flatten(0, -2) for t in (x, y.detach()))
    for centered in (tokens - tokens.mean(-1, keepdim=True), tokens):
        standard = centered / centered.square().mean(-1, keepdim=True).sqrt()
        if (fit := _affine(standard, result, tolerance)) is not None:
            return NormFit(axis, *fit)
    return None


def _only_tensor(output: Any) -> Tensor:
    (tensor,) = (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
    return tensor


def _affine(x: Tensor, y: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Return gain and bias, each of shape (D,), with ``y = gain * x + bias``; None if not so."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    gain = ((x - mean_x) * (y - mean_y)).sum(0) / (x - mean_x).square().sum(0)
    bias = mean_y - gain * mean_x
    error = (y - gain * x - bias).abs().max()
    scale = gain.abs().max()
    return (gain, bias) if scale > 0 and error <= tolerance * scale.clamp(min=1e-6) else None
