"""Layers of :mod:`admin_init.nn`, in which the sum ``x + f(x)`` is a replaceable module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from typing_extensions import override

from admin_init.adapters.registry import register_adapter
from admin_init.adapters.skip_form import SkipSite, WeightSlice
from admin_init.errors import NotPostLNError
from admin_init.nn.attention import CrossAttention, SelfAttention
from admin_init.nn.feed_forward import FeedForward
from admin_init.nn.layers import DecoderLayer, EncoderLayer
from admin_init.nn.residual import PostResidual, SkipConnection
from admin_init.scaled_skip import ScaledSkip
from admin_init.sites import ResidualSite, layer_stack


class NativeSite(SkipSite):
    """A sub-layer of :class:`EncoderLayer` or :class:`DecoderLayer` in a Post-LN style."""

    def __init__(self, name: str, stack: str, residual: PostResidual, branch: Any) -> None:
        super().__init__(name, stack, residual.norm)
        self.residual = residual
        self.branch: SelfAttention | CrossAttention | FeedForward = branch

    @property
    @override
    def skip(self) -> ScaledSkip | None:
        skip = self.residual.skip
        return skip if isinstance(skip, ScaledSkip) else None

    @override
    def install_(self) -> None:
        weight = self.norm_weight
        self.residual.skip = ScaledSkip(self.width, device=weight.device, dtype=weight.dtype)

    @override
    def uninstall_(self) -> None:
        self.residual.skip = SkipConnection()

    @override
    def readers(self) -> Iterator[WeightSlice]:
        if isinstance(self.branch, SelfAttention):
            yield WeightSlice(self.branch.in_proj.weight)
        elif isinstance(self.branch, CrossAttention):
            yield WeightSlice(self.branch.q_proj.weight)
        else:
            yield WeightSlice(self.branch.fc1.weight)

    @override
    def output(self) -> nn.Linear:
        return self.branch.fc2 if isinstance(self.branch, FeedForward) else self.branch.out_proj


@register_adapter(EncoderLayer)
def _encoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, "encoder", ("self_attn", "ffn"))


@register_adapter(DecoderLayer)
def _decoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, "decoder", ("self_attn", "cross_attn", "ffn"))


def _sites(
    layer: nn.Module, name: str, default_stack: str, sublayers: tuple[str, ...]
) -> list[ResidualSite]:
    prefix = f"{name}." if name else ""
    sites: list[ResidualSite] = []
    for sublayer in sublayers:
        residual = layer.get_submodule(f"{sublayer}_residual")
        if not isinstance(residual, PostResidual):
            raise NotPostLNError(f"`{prefix}{sublayer}` is connected by {type(residual).__name__}")
        branch = layer.get_submodule(sublayer)
        stack = layer_stack(name, default_stack)
        sites.append(NativeSite(f"{prefix}{sublayer}", stack, residual, branch))
    return sites
