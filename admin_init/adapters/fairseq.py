"""fairseq's Post-LN layers, in which all sub-layers add their shortcut in one overridable method.

That method, ``residual_connection(x, residual)``, does not know which sub-layer calls it. Hooks on
the attentions record it: if no attention ran since the last call, it is the feed-forward network.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from fairseq.modules import LayerDropModuleList, MultiheadAttention
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.adapters.class_swap import ClassSwap, own_class, restore_class_, swap_class_
from admin_init.adapters.registry import register_adapter
from admin_init.adapters.skip_form import (
    AttributeOverride,
    SkipSite,
    WeightSlice,
    nearest_parent,
    require_module,
)
from admin_init.errors import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.scaled_skip import ScaledSkip
from admin_init.sites import Recorder, ResidualSite, layer_stack

_LAYERS = (TransformerEncoderLayerBase, TransformerDecoderLayerBase)
_NORMS = {
    "self_attn": "self_attn_layer_norm",
    "encoder_attn": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}


class _Running(threading.local):
    """The branch that this thread computes, by fairseq's name.

    It cannot be stored in the layer, because threads may run one layer at the same time.
    """

    branch = "ffn"


_running = _Running()


def _after_self_attn(*_: object) -> None:
    _running.branch = "self_attn"


def _after_encoder_attn(*_: object) -> None:
    _running.branch = "encoder_attn"


_HOOKS = {"self_attn": _after_self_attn, "encoder_attn": _after_encoder_attn}


class _RescaledLayer(ClassSwap):
    """Scales the shortcut of each sub-layer that has a :class:`ScaledSkip`."""

    # The fused inference kernel ignores omega.
    can_use_fastpath = property(lambda self: False)

    def residual_connection(self, x: Tensor, residual: Tensor) -> Tensor:
        branch, _running.branch = _running.branch, "ffn"
        skip: ScaledSkip | None = getattr(self, f"{branch}_skip", None)
        return residual + x if skip is None else skip(residual, x)


class FairseqSite(SkipSite):
    """A sub-layer of ``TransformerEncoderLayerBase`` or ``TransformerDecoderLayerBase``.

    The shortcut is the one that the layer passes to its residual connection: with ``scale_resids``,
    the shortcut of the feed-forward network is already multiplied by ``w_resid``.
    """

    def __init__(
        self, name: str, stack: str, layer: nn.Module, branch: str, layers: nn.ModuleList | None
    ) -> None:
        super().__init__(name, stack, layer.get_submodule(_NORMS[branch]))
        self.layer = layer
        self.branch = branch
        self.layers = layers

    @property
    @override
    def skip(self) -> ScaledSkip | None:
        skip = self.layer._modules.get(f"{self.branch}_skip")
        return skip if isinstance(skip, ScaledSkip) else None

    @override
    def install_(self) -> None:
        weight = self.norm_weight
        skip = ScaledSkip(self.width, device=weight.device, dtype=weight.dtype)
        self.layer.add_module(f"{self.branch}_skip", skip)
        if not isinstance(self.layer, _RescaledLayer):
            swap_class_(self.layer, _RescaledLayer)
            for attention, hook in self._hooked():
                attention.register_forward_hook(hook)

    @override
    def uninstall_(self) -> None:
        self.layer._modules.pop(f"{self.branch}_skip", None)
        if any(isinstance(child, ScaledSkip) for child in self.layer.children()):
            return
        restore_class_(self.layer)
        for attention, hook in self._hooked():
            # Hooks are found by identity, because handles do not survive a deepcopy.
            for key, other in list(attention._forward_hooks.items()):
                if other is hook:
                    del attention._forward_hooks[key]

    def _hooked(self) -> Iterator[tuple[nn.Module, Any]]:
        for name, hook in _HOOKS.items():
            attention = self.layer._modules.get(name)
            if attention is not None:
                yield attention, hook

    @override
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        handles = list(super().observe(recorder))
        if isinstance(self.layers, LayerDropModuleList):
            # LayerDrop draws from [0, 1) and keeps a layer if the number is above p.
            handles.append(AttributeOverride(self.layers, "p", -1.0))
        return handles

    @override
    def fold_targets(self) -> Iterable[Tensor]:
        targets = list(super().fold_targets())
        if targets:
            self._check_readers()
        return targets

    def _check_readers(self) -> None:
        plain = own_class(self.layer)
        if not any(plain.forward is base.forward for base in _LAYERS):
            raise FoldError(
                f"{plain.__name__} overrides `forward`, so the weights that read the input of "
                f"`{self.name}` are unknown"
            )
        if self.branch != "self_attn":
            return
        if self.previous is None:
            if getattr(self.layer, "attn_ln", None) is not None:
                raise FoldError(
                    f"the branch of `{self.name}` ends in a layer norm (scale_attn) instead of a "
                    "linear layer"
                )
            return
        if getattr(self.layer, "cross_self_attention", False):
            raise FoldError(
                f"the keys and values of `{self.name}` come from the encoder too "
                "(cross_self_attention)"
            )
        layers = [] if self.layers is None else self.layers._modules.values()
        if isinstance(self.layers, LayerDropModuleList) and self.layers.p > 0:
            raise FoldError(
                f"the layer before `{self.name}` may be dropped (LayerDrop, p = {self.layers.p}): "
                "first set `p` of the list of layers to 0, because a folded model needs all layers"
            )
        if strangers := [layer for layer in layers if not _holds_layer(layer)]:
            raise FoldError(
                f"a {type(strangers[0]).__name__} stands between the layers around `{self.name}`"
            )

    @override
    def readers(self) -> Iterator[WeightSlice]:
        if self.branch == "ffn":
            yield WeightSlice(self._linear("fc1").weight)
            return
        require_module(self.layer, self.branch, MultiheadAttention, self.name)
        for letter in "q" if self.branch == "encoder_attn" else "qkv":
            yield WeightSlice(self._linear(f"{self.branch}.{letter}_proj").weight)

    @override
    def output(self) -> nn.Linear:
        return self._linear("fc2" if self.branch == "ffn" else f"{self.branch}.out_proj")

    def _linear(self, name: str) -> nn.Linear:
        return require_module(self.layer, name, nn.Linear, self.name)


def _holds_layer(module: nn.Module) -> bool:
    # The layer may be wrapped, for example by FSDP.
    return any(isinstance(inner, _LAYERS) for inner in module.modules())


@register_adapter(TransformerEncoderLayerBase)
def _encoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "encoder")


@register_adapter(TransformerDecoderLayerBase)
def _decoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "decoder")


def _sites(layer: nn.Module, name: str, model: nn.Module, default_stack: str) -> list[ResidualSite]:
    _refuse_unsupported(layer, name or type(layer).__name__)
    stack = layer_stack(name, default_stack)
    layers = nearest_parent(name, model, nn.ModuleList)
    prefix = f"{name}." if name else ""
    return [
        FairseqSite(
            # The other families' name, so that a profile fits all of them.
            f"{prefix}{'cross_attn' if branch == 'encoder_attn' else branch}",
            stack,
            layer,
            branch,
            layers,
        )
        for branch, norm in _NORMS.items()
        if getattr(layer, norm, None) is not None
    ]


def _refuse_unsupported(layer: Any, name: str) -> None:
    if layer.normalize_before:
        raise NotPostLNError(f"`{name}` is Pre-LN (normalize_before=True)")
    plain = own_class(layer)
    if not any(plain.residual_connection is base.residual_connection for base in _LAYERS):
        raise UnsupportedModelError(
            f"{plain.__name__} at `{name}` overrides `residual_connection`, so Admin does not know "
            "its shortcut. Name its sites with `admin_init.named_sites`, or train it without Admin."
        )
    if layer.quant_noise > 0:
        raise UnsupportedModelError(
            f"`{name}` has quantization noise (quant_noise_pq = {layer.quant_noise}), which "
            "overwrites weights in every forward pass, also when the model is profiled. Build it "
            "with quant_noise_pq=0, or train it without Admin."
        )
