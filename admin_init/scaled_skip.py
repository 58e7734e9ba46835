"""The rescaled shortcut of Admin: ``omega * x + f(x)``."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn


class ScaledSkip(nn.Module):
    """Residual connection with one scale per channel of the shortcut (arXiv 2004.08249).

    ``omega`` starts at 1, the plain residual connection.

    Args:
        dim: Number of channels D.
        trainable: Whether training updates ``omega``.
        device: Device of ``omega``.
        dtype: Type of ``omega``.

    Shape:
        shortcut, branch: (..., D). omega: (D,). Output: (..., D).

    Examples:
        >>> skip = ScaledSkip(4)
        >>> skip(torch.ones(2, 4), torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        dim: int,
        *,
        trainable: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.omega = nn.Parameter(
            torch.empty(dim, device=device, dtype=dtype), requires_grad=trainable
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set ``omega`` to 1; also called after a model is moved off the meta device."""
        nn.init.ones_(self.omega)

    def forward(self, shortcut: Tensor, branch: Tensor, omega: Tensor | None = None) -> Tensor:
        """Compute ``omega * shortcut + branch``; the argument ``omega`` replaces the parameter."""
        return torch.addcmul(branch, self.omega if omega is None else omega, shortcut)

    def extra_repr(self) -> str:
        """Return the number of channels and whether they are trained, for ``print(model)``."""
        return f"{self.omega.numel()}, trainable={self.omega.requires_grad}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        omega_or_one(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def omega_or_one(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add omega = 1 to a ``state_dict`` without it, so that a plain model's checkpoint loads.

    This is a pre-hook of ``load_state_dict``, which passes a copy of the checkpoint's dictionary.
    """
    if f"{prefix}omega" in state_dict:
        return
    warnings.warn(
        "The checkpoint has no omega, so the shortcuts are scaled by 1, as in a model without "
        "Admin.",
        stacklevel=2,
    )
    omega = module.get_parameter("omega")
    # `load_state_dict(assign=True)` into a model on the meta device needs real tensors.
    device = "cpu" if omega.is_meta else omega.device
    state_dict[f"{prefix}omega"] = torch.ones_like(omega, device=device, requires_grad=False)
