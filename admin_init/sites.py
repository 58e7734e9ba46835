"""Residual sites: where a model adds a branch to its shortcut, and how they are found."""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from admin_init.errors import NotPostLNError, UnsupportedModelError


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


Adapter = Callable[[nn.Module, str, nn.Module], "list[ResidualSite]"]
"""Takes a layer, its name in the model, and the model; returns the layer's sites in order of
execution, or raises NotPostLNError."""

_ADAPTERS: dict[type[nn.Module] | str, Adapter] = {}
_UNSERVED: set[type[nn.Module] | str] = set()
_AdapterT = TypeVar("_AdapterT", bound=Adapter)


def register_adapter(
    layer_class: type[nn.Module] | str, *, served: bool = True
) -> Callable[[_AdapterT], _AdapterT]:
    """Register the function that finds the sites of ``layer_class`` and of its subclasses.

    Args:
        layer_class: The class; or ``module.Class`` by name, which spares the import of the library
            that it comes from.
        served: Whether it has sites; False where the adapter only says why Admin does not apply.

    Raises:
        ValueError: The class has an adapter already.
    """

    def register(adapter: _AdapterT) -> _AdapterT:
        if layer_class in _ADAPTERS:
            raise ValueError(f"`{_class_name(layer_class)}` already has an adapter.")
        _ADAPTERS[layer_class] = adapter
        if not served:
            _UNSERVED.add(layer_class)
        return adapter

    return register


def find_sites(model: nn.Module) -> list[ResidualSite]:
    """Find every residual connection that Admin can rescale.

    Args:
        model: Any module that contains Post-LN Transformer layers of a known family.

    Returns:
        The sites in the order in which the model defines them, stack after stack.

    Raises:
        NotPostLNError: All the layers that were found are Pre-LN.
        UnsupportedModelError: No layer of a known family was found, or one layer object is used
            at several depths.
    """
    _load_adapters()
    sites: list[ResidualSite] = []
    not_post_ln: list[str] = []
    for name, layer in model.named_modules():
        adapter = adapter_of(layer)
        if adapter is None:
            continue
        try:
            sites += adapter(layer, name, model)
        except NotPostLNError as error:
            not_post_ln.append(str(error))
    shared = list(_shared_layers(model))
    if shared:
        raise UnsupportedModelError(
            f"One layer is used at several depths: {', '.join(shared)}. Its branch would need a "
            "different omega at each of them. Build one layer per depth, or train it without Admin."
        )
    if not sites and not_post_ln:
        raise NotPostLNError(
            "Admin rescales the shortcuts of Post-LN layers, but the layers found here are not: "
            f"{'; '.join(not_post_ln[:3])}{' ...' if len(not_post_ln) > 3 else ''}. Build it with "
            "norm_first=False (in fairseq: normalize_before=False), take another model where there "
            "is no such choice, or train it without Admin: Pre-LN does not need it."
        )
    if not sites:
        served = _ADAPTERS.keys() - _UNSERVED
        known = ", ".join(sorted({_class_name(cls).rpartition(".")[2] for cls in served}))
        raise UnsupportedModelError(
            f"No residual connection was found in {type(model).__name__}. Known layers: "
            f"{known}, and their subclasses. The sites of another Post-LN model can be named, see "
            "`admin_init.named_sites`."
        )
    _shorten_stacks(sites)
    return linked(sites)


def stacks(sites: Iterable[ResidualSite]) -> dict[str, list[ResidualSite]]:
    """Group ``sites`` by stack, each in its own order."""
    grouped: dict[str, list[ResidualSite]] = {}
    for site in sites:
        grouped.setdefault(site.stack, []).append(site)
    return grouped


def linked(sites: list[ResidualSite]) -> list[ResidualSite]:
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


_OPTIONAL = ("fairseq",)
"""Libraries that have an adapter of their name, loaded once the library is."""


def _load_adapters() -> None:
    importlib.import_module("admin_init.adapters")
    for library in _OPTIONAL:
        if sys.modules.get(library) is not None:
            importlib.import_module(f"admin_init.adapters.{library}")


def adapter_of(layer: nn.Module) -> Adapter | None:
    """Return the adapter of a layer's class, or of the nearest one that it extends."""
    keys = (key for cls in type(layer).__mro__ for key in (cls, _class_name(cls)))
    return next((_ADAPTERS[key] for key in keys if key in _ADAPTERS), None)


def _class_name(layer_class: type | str) -> str:
    if isinstance(layer_class, str):
        return layer_class
    return f"{layer_class.__module__}.{layer_class.__qualname__}"


def _shared_layers(model: nn.Module) -> Iterator[str]:
    for container_name, container in model.named_modules():
        children = Counter(child for child in container._modules.values() if child is not None)
        for layer, uses in children.items():
            if uses > 1 and adapter_of(layer) is not None:
                yield f"{type(layer).__name__}, {uses} times in `{container_name or 'the model'}`"


def _shorten_stacks(sites: list[ResidualSite]) -> None:
    # `encoder` reads better than `model.transformer.encoder`, where it says which one is meant.
    paths = {site.stack for site in sites}
    short = Counter(path.rpartition(".")[2] for path in paths)
    for site in sites:
        last = site.stack.rpartition(".")[2]
        if short[last] == 1 and not last.isdigit():
            site.stack = last
