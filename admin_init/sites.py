"""Residual sites: the places where a model adds a branch to its shortcut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from admin_init.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class BranchPlace:
    """Where a branch ends, or a Pre-LN stream starts, in names of modules and parameters."""

    branch: str
    """The module whose output omega divides, or whose output or argument omega multiplies."""
    start: Literal["output", "input"] | None = None
    """Which of the two is the start of a stream; None if the output is the end of a branch."""
    norm: str | None = None
    """The norm that reads the sum; None if it is no module."""
    width: int | None = None
    """Number of channels D; None if it is that of the norm's gain."""
    leaf: int = 0
    """Index of the branch among the items of the module's output, nested ones included, or of x_0
    among its arguments, those with names last."""
    axis: int = -1
    """The axis of the channels in that item, counted from the last (-1)."""
    container: str | None = None
    """If the module runs several times: a module around all these calls that runs once."""
    call: int | None = None
    """If the module runs several times: the call whose output is the branch, 1 for the first."""
    linear: str | None = None
    """The nn.Linear at the end of the branch, if a pattern named it."""
    weights: dict[str, int] = field(default_factory=dict)
    """The parameters that the branch or x_0 is proportional to, with the axes of their channels."""


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """A residual site in names of modules, to be stored and found again without a forward pass."""

    name: str
    stack: str
    previous: str | None
    """Name of the site before; None for the first of a chain."""
    fold_problem: str | None = None
    """Why omega cannot be folded, or None."""
    place: BranchPlace | None = None
    """Where omega is; None for a layer of a known family."""


class Recorder(Protocol):
    """Receiver of both terms of every residual sum while a model is profiled."""

    def omega(self, site: ResidualSite) -> Tensor:
        """Return the omega to use at ``site`` in this pass: a float32 or float64 scalar."""
        ...

    def computed_in(self, site: ResidualSite, dtype: torch.dtype) -> None:
        """Note the type in which the branch was computed, if it is not that of f(x) in the sum."""
        ...

    def record(self, site: ResidualSite, shortcut: Tensor, branch: Tensor) -> None:
        """Record x and f(x), as they enter the sum."""
        ...


class ResidualSite(ABC):
    """One residual connection of a Post-LN model.

    Attributes:
        name: Qualified name of the sub-layer, such as ``encoder.layers.0.self_attn``.
        stack: Name of the chain of residual connections, such as ``encoder``.
        norm: The norm that follows the sum; None if it is a function and no module.
        previous: The previous site of the stack; None for the first.
    """

    def __init__(self, name: str, stack: str, norm: nn.Module | None) -> None:
        self.name = name
        self.stack = stack
        self.norm = norm
        self.previous: ResidualSite | None = None
        self.computed = False
        """Whether a forward pass showed ``previous`` and what prevents a fold."""
        self.computed_fold_problem: str | None = None

    @property
    @abstractmethod
    def holder(self) -> nn.Module | None:
        """The module that holds omega, or None if not installed."""

    @property
    def place(self) -> BranchPlace | None:
        """Where the branch ends, if no layer of a known family says it."""
        return None

    def record(self) -> SiteRecord:
        """Return the site in names of modules."""
        return SiteRecord(
            name=self.name,
            stack=self.stack,
            previous=None if self.previous is None else self.previous.name,
            fold_problem=self.computed_fold_problem,
            place=self.place,
        )

    @property
    @abstractmethod
    def omega(self) -> nn.Parameter | None:
        """The scale of the shortcut, shape (D,), or None if not installed."""

    @abstractmethod
    def install_(self) -> None:
        """Add omega = 1 to the model."""

    @abstractmethod
    def uninstall_(self) -> None:
        """Remove omega from the model, whatever its value."""

    @abstractmethod
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        """Report every pass through this site to ``recorder``, until the handles are removed."""

    @abstractmethod
    def fold_problem(self) -> str | None:
        """Return the reason why omega cannot be folded, or None."""

    @abstractmethod
    def fold_targets(self) -> Iterable[Tensor]:
        """Return the weights that :meth:`fold_` changes.

        Raises:
            FoldError: A layer that holds such a weight has an unknown type.
        """

    @abstractmethod
    def fold_factors(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return pairs (weight or slice of it, factor) that :meth:`fold_` multiplies."""

    @torch.no_grad()
    def fold_(self) -> None:
        """Move omega into the weights and remove it from the model."""
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
    def template(self) -> Tensor:
        """A tensor with the type and the device of omega."""
        return self.norm_weight

    @property
    def gain(self) -> Tensor | None:
        """Gain of the norm that follows, shape (D,), if it has one."""
        vectors = [p for p in self.norm.parameters() if p.dim() == 1] if self.norm else []
        # x-transformers calls it `gamma`, the annotated Transformer `a_2`.
        named = [getattr(self.norm, name, None) for name in ("weight", "gamma")]
        return next((gain for gain in (*named, *vectors) if isinstance(gain, Tensor)), None)

    @property
    def norm_weight(self) -> Tensor:
        """Gain of the norm that follows, shape (D,).

        Raises:
            UnsupportedModelError: It has none.
        """
        if self.gain is None:
            raise UnsupportedModelError(
                f"The norm after `{self.name}` has no gain (elementwise_affine=False). Admin needs "
                "a gain: it gives the number of channels, and omega is folded into it."
            )
        return self.gain

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, stack={self.stack!r})"


def stacks(sites: Iterable[ResidualSite]) -> dict[str, list[ResidualSite]]:
    """Group ``sites`` by stack, in their order."""
    grouped: dict[str, list[ResidualSite]] = {}
    for site in sites:
        grouped.setdefault(site.stack, []).append(site)
    return grouped


def link_stacks(sites: list[ResidualSite]) -> list[ResidualSite]:
    """Set ``previous`` of every site to the site before it in its stack."""
    for chain in stacks(sites).values():
        for previous, site in pairwise(chain):
            site.previous = previous
    return sites


def layer_stack(layer_name: str, default: str) -> str:
    """Return the stack of a layer: ``model.encoder`` for ``model.encoder.layers.0``.

    Layers of one list form a stack, and so do ``layer1``, ``layer2``, ...; any other layer is a
    stack of its own. Name parts after the index belong to a wrapper, such as ``_orig_mod``.

    Args:
        layer_name: Qualified name of the layer in its model.
        default: Name of the stack if the layer's name does not give one, as in ``layers.0``.

    Examples:
        >>> layer_stack("model.encoder.layers.0", default="encoder")
        'model.encoder'
        >>> layer_stack("layers.0", default="encoder")
        'encoder'
    """
    parts = layer_name.split(".")
    if layer_name and not any(part.isdigit() for part in parts):
        return layer_name.rstrip("0123456789").rstrip("_")
    index = max((i for i, part in enumerate(parts) if part.isdigit()), default=len(parts) - 1)
    stack = ".".join(parts[:index]).removesuffix(".layers").removesuffix(".layer")
    return default if stack in ("", "layers", "layer") else stack
