"""The rescaled shortcut of Admin: ``omega * x + f(x)``."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn


class ScaledSkip(nn.Module):
    """Residual connection whose shortcut is scaled channel by channel (arXiv 2004.08249).

    A freshly built one has ``omega = 1`` and is the plain residual connection.

    Args:
        dim: Number of channels D.
        trainable: Whether ``omega`` is updated by training.
        device: Device of ``omega``.
        dtype: Type of ``omega``.

    Shape:
        shortcut, branch: (..., D). omega: (D,). Output: (..., D).
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
        """Set ``omega`` to 1: also what a model built on the meta device calls for."""
        nn.init.ones_(self.omega)

    def forward(self, shortcut: Tensor, branch: Tensor, omega: Tensor | None = None) -> Tensor:
        """Return ``omega * shortcut + branch``; the argument ``omega`` overrules the parameter."""
        return torch.addcmul(branch, self.omega if omega is None else omega, shortcut)

    def extra_repr(self) -> str:
        """Channels, and whether they are trained, as ``print(model)`` shows them."""
        return f"{self.omega.numel()}, trainable={self.omega.requires_grad}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        omega_or_one(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def omega_or_one(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put omega = 1 into a ``state_dict`` that has none: that of a plain model is a valid one.

    A pre-hook of ``load_state_dict``, which hands it a copy of the checkpoint's dictionary.
    """
    if f"{prefix}omega" in state_dict:
        return
    warnings.warn(
        "The checkpoint has no omega: shortcuts are scaled by 1, as in a model without Admin.",
        stacklevel=2,
    )
    omega = module.get_parameter("omega")
    # What is loaded with `assign=True` into a model on the meta device must lie on a real one.
    device = "cpu" if omega.is_meta else omega.device
    state_dict[f"{prefix}omega"] = torch.ones_like(omega, device=device, requires_grad=False)
