"""torch.nn's Post-LN layers, in which every sub-layer is a method that a subclass can override."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from admin_init.adapters.class_swap import ClassSwap, own_class, restore_class_, swap_class_
from admin_init.adapters.padded_encoder import keep_padding_, restore_padding_
from admin_init.adapters.registry import register_adapter
from admin_init.adapters.skip_form import SkipSite, WeightSlice, nearest_parent, require_module
from admin_init.errors import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.scaled_skip import ScaledSkip
from admin_init.sites import ResidualSite, layer_stack


class ExcessSkip(ScaledSkip):
    """A :class:`ScaledSkip` for layers that add the shortcut themselves.

    The layer adds x to the result ``branch + (omega - 1) * x``, which makes
    ``omega * x + branch``.
    """

    @override
    def forward(self, shortcut: Tensor, branch: Tensor, omega: Tensor | None = None) -> Tensor:
        """Compute ``branch + (omega - 1) * shortcut``."""
        return torch.addcmul(branch, (self.omega if omega is None else omega) - 1, shortcut)


class _RescaledLayer(ClassSwap):
    """Adds ``(omega - 1) * x`` to the output of each sub-layer."""

    # 0 disables the fused inference kernel of nn.TransformerEncoderLayer, which ignores omega.
    activation_relu_or_gelu = property(lambda self: 0)

    def _sa_block(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._rescaled("self_attn_skip", x, super()._sa_block(x, *args, **kwargs))  # type: ignore[misc]

    def _mha_block(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._rescaled("cross_attn_skip", x, super()._mha_block(x, *args, **kwargs))  # type: ignore[misc]

    def _ff_block(self, x: Tensor) -> Tensor:
        return self._rescaled("ffn_skip", x, super()._ff_block(x))  # type: ignore[misc]

    def _rescaled(self, name: str, x: Tensor, branch: Tensor) -> Tensor:
        skip: ExcessSkip | None = getattr(self, name, None)
        return branch if skip is None else skip(x, branch)


_ENCODER, _DECODER = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
_BLOCKS = {"self_attn": "_sa_block", "cross_attn": "_mha_block", "ffn": "_ff_block"}


class TorchSite(SkipSite):
    """A sub-layer of ``nn.TransformerEncoderLayer`` or ``nn.TransformerDecoderLayer``."""

    def __init__(
        self,
        name: str,
        stack: str,
        layer: nn.Module,
        norm: nn.Module,
        encoder: nn.TransformerEncoder | None,
    ) -> None:
        super().__init__(name, stack, norm)
        self.layer = layer
        self.encoder = encoder
        self.sublayer = name.rpartition(".")[2]

    @property
    @override
    def skip(self) -> ScaledSkip | None:
        skip = self.layer._modules.get(f"{self.sublayer}_skip")
        return skip if isinstance(skip, ScaledSkip) else None

    @override
    def install_(self) -> None:
        weight = self.norm_weight
        skip = ExcessSkip(self.width, device=weight.device, dtype=weight.dtype)
        self.layer.add_module(f"{self.sublayer}_skip", skip)
        swap_class_(self.layer, _RescaledLayer)
        keep_padding_(self.encoder)

    @override
    def uninstall_(self) -> None:
        self.layer._modules.pop(f"{self.sublayer}_skip", None)
        if not any(isinstance(child, ScaledSkip) for child in self.layer.children()):
            restore_class_(self.layer)
        restore_padding_(self.encoder)

    @override
    def fold_targets(self) -> Iterable[Tensor]:
        targets = list(super().fold_targets())
        plain = own_class(self.layer)
        base = _DECODER if issubclass(plain, _DECODER) else _ENCODER
        method = _BLOCKS[self.sublayer]
        if targets and getattr(plain, method) is not getattr(base, method):
            raise FoldError(
                f"{plain.__name__} overrides `{method}`, so the weights that read the input of "
                f"`{self.name}` are unknown"
            )
        return targets

    @override
    def readers(self) -> Iterator[WeightSlice]:
        if self.sublayer == "ffn":
            yield WeightSlice(require_module(self.layer, "linear1", nn.Linear, self.name).weight)
            return
        attention = self._attention()
        queries_only = self.sublayer == "cross_attn"
        if attention._qkv_same_embed_dim:
            yield WeightSlice(attention.in_proj_weight, 0, self.width if queries_only else None)
        else:
            yield WeightSlice(attention.q_proj_weight)

    @override
    def output(self) -> nn.Linear:
        if self.sublayer == "ffn":
            return require_module(self.layer, "linear2", nn.Linear, self.name)
        return self._attention().out_proj

    def _attention(self) -> nn.MultiheadAttention:
        name = "multihead_attn" if self.sublayer == "cross_attn" else "self_attn"
        return require_module(self.layer, name, nn.MultiheadAttention, self.name)


@register_adapter(_ENCODER)
def _encoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "encoder", ("self_attn", "ffn"))


@register_adapter(_DECODER)
def _decoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "decoder", ("self_attn", "cross_attn", "ffn"))


def _sites(
    layer: nn.Module, name: str, model: nn.Module, default_stack: str, sublayers: tuple[str, ...]
) -> list[ResidualSite]:
    if layer.norm_first:
        raise NotPostLNError(f"`{name or type(layer).__name__}` is Pre-LN (norm_first=True)")
    plain = own_class(layer)
    own = "forward" in vars(layer)
    if own or not any(plain.forward is base.forward for base in (_ENCODER, _DECODER)):
        raise UnsupportedModelError(
            f"{plain.__name__} at `{name}` overrides `forward`, so Admin does not know where it "
            "adds the shortcut. Find its sites in a forward pass: `find_sites(model, batch)`."
        )
    stack = layer_stack(name, default_stack)
    encoder = nearest_parent(name, model, nn.TransformerEncoder)
    prefix = f"{name}." if name else ""
    return [
        TorchSite(f"{prefix}{sublayer}", stack, layer, layer.get_submodule(f"norm{i}"), encoder)
        for i, sublayer in enumerate(sublayers, start=1)
    ]
