"""Residual sites: where a model adds a branch to its shortcut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from admin_init.errors import UnsupportedModelError


class Recorder(Protocol):
    """What a site shows the two terms of its sum to, while a model is profiled."""

    def omega(self, site: ResidualSite) -> Tensor:
        """Return the omega in force at ``site`` during this pass: a float32 scalar."""
        ...

    def record(self, site: ResidualSite, shortcut: Tensor, branch: Tensor) -> None:
        """Take note of x and of f(x), as they enter the sum."""
        ...


class ResidualSite(ABC):
    """One residual connection of a Post-LN model.

    Attributes:
        name: Where it is in the model, such as ``encoder.layers.0.self_attn``.
        stack: The chain of residual connections that it belongs to, such as ``encoder``.
        norm: The layer norm that follows the sum.
        previous: The site before this one in its stack; None for the first.
    """

    def __init__(self, name: str, stack: str, norm: nn.Module) -> None:
        self.name = name
        self.stack = stack
        self.norm = norm
        self.previous: ResidualSite | None = None

    @property
    @abstractmethod
    def omega(self) -> nn.Parameter | None:
        """The scale of the shortcut, shape (D,), or None where none is installed."""

    @abstractmethod
    def install_(self) -> None:
        """Add omega = 1 to the model."""

    @abstractmethod
    def uninstall_(self) -> None:
        """Take omega out of the model, whatever its value."""

    @abstractmethod
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        """Show every pass through this site to ``recorder``, until the handles are removed."""

    @abstractmethod
    def fold_problem(self) -> str | None:
        """Say what keeps omega from being folded, if anything does."""

    @abstractmethod
    def fold_targets(self) -> Iterable[Tensor]:
        """Return the weights that :meth:`fold_` changes.

        Raises:
            FoldError: The model has something else in a place where a known layer is needed.
        """

    @abstractmethod
    def fold_factors(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return what :meth:`fold_` multiplies, weights or parts of them, and by what."""

    @torch.no_grad()
    def fold_(self) -> None:
        """Move omega into the weights, and take it out of the model."""
        for weight, factor in self.fold_factors():
            weight.copy_(weight.double() * factor)
        self.uninstall_()

    @property
    def installed(self) -> bool:
        """Whether the site has an omega."""
        return self.omega is not None

    @property
    def width(self) -> int:
        """Number of channels D of the residual stream."""
        return self.norm_weight.numel()

    @property
    def norm_weight(self) -> Tensor:
        """Gain of the layer norm that follows, shape (D,)."""
        # What most libraries call it, and some others.
        weight = getattr(self.norm, "weight", getattr(self.norm, "gamma", None))
        if not isinstance(weight, Tensor):
            raise UnsupportedModelError(
                f"The norm after `{self.name}` has no gain (elementwise_affine=False). Admin needs "
                "one to take the number of channels from, and to fold omega into."
            )
        return weight

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, stack={self.stack!r})"


def stacks(sites: Iterable[ResidualSite]) -> dict[str, list[ResidualSite]]:
    """Group ``sites`` by stack, each in its own order."""
    grouped: dict[str, list[ResidualSite]] = {}
    for site in sites:
        grouped.setdefault(site.stack, []).append(site)
    return grouped


def link_stacks(sites: list[ResidualSite]) -> list[ResidualSite]:
    """Tell every one of ``sites`` which site precedes it in its stack."""
    for chain in stacks(sites).values():
        for previous, site in pairwise(chain):
            site.previous = previous
    return sites


def layer_stack(layer_name: str, default: str) -> str:
    """Return the stack of a layer: ``model.encoder`` for ``model.encoder.layers.0``.

    What follows the index is a wrapper around the layer, such as ``_orig_mod``. Layers of one list
    are taken to follow each other, as are ``layer1``, ``layer2``; one with a name of its own stands
    alone.

    Args:
        layer_name: Qualified name of the layer in its model.
        default: What to call the stack where the name does not tell, as in ``layers.0``.
    """
    parts = layer_name.split(".")
    if layer_name and not any(part.isdigit() for part in parts):
        return layer_name.rstrip("0123456789").rstrip("_")
    index = max((i for i, part in enumerate(parts) if part.isdigit()), default=len(parts) - 1)
    stack = ".".join(parts[:index]).removesuffix(".layers").removesuffix(".layer")
    return default if stack in ("", "layers", "layer") else stack
