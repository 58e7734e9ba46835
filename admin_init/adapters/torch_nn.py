"""torch.nn's Post-LN layers, whose sub-layers are methods that a subclass can extend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from admin_init.adapters.skip import Rows, SkipSite
from admin_init.errors import NotPostLNError
from admin_init.sites import ResidualSite, layer_stack, register_adapter
from admin_init.skip import ExcessSkip, ScaledSkip


class _Extended:
    """A class made at run time from a mixin and a layer's own class; survives pickle, deepcopy."""

    plain_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = tuple(super().__reduce_ex__(protocol))[2:]
        return _new, (type(self).__mro__[1], self.plain_class), *state


class _RescaledLayer(_Extended):
    """Adds the shortcut's excess to what each sub-layer returns; see :class:`ExcessSkip`."""

    # The fused inference kernel of nn.TransformerEncoderLayer knows no omega, and takes only the
    # activations that this attribute marks as known.
    activation_relu_or_gelu = property(lambda self: 0)

    def _sa_block(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._rescale("self_attn_skip", x, super()._sa_block(x, *args, **kwargs))  # type: ignore[misc]

    def _mha_block(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._rescale("cross_attn_skip", x, super()._mha_block(x, *args, **kwargs))  # type: ignore[misc]

    def _ff_block(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._rescale("ffn_skip", x, super()._ff_block(x, *args, **kwargs))  # type: ignore[misc]

    def _rescale(self, name: str, x: Tensor, branch: Tensor) -> Tensor:
        skip = getattr(self, name, None)
        return branch if skip is None else skip(x, branch)


class _PaddedEncoder(_Extended):
    """Keeps ``nn.TransformerEncoder`` from nested tensors, which only the fused kernel takes."""

    use_nested_tensor = property(lambda self: False)


_EXTENDED: dict[tuple[type[_Extended], type[nn.Module]], Any] = {}


def _extended(mixin: type[_Extended], plain_class: type[nn.Module]) -> Any:
    key = mixin, plain_class
    if key not in _EXTENDED:
        name = f"Admin{plain_class.__name__}"
        _EXTENDED[key] = type(name, key, {"plain_class": plain_class})
    return _EXTENDED[key]


def _new(mixin: type[_Extended], plain_class: type[nn.Module]) -> Any:
    cls = _extended(mixin, plain_class)
    return cls.__new__(cls)


def _extend_(module: nn.Module, mixin: type[_Extended]) -> None:
    if not isinstance(module, mixin):
        module.__class__ = _extended(mixin, type(module))


def _restore_(module: nn.Module) -> None:
    if isinstance(module, _Extended):
        module.__class__ = module.plain_class  # type: ignore[assignment]


class TorchSite(SkipSite):
    """A sub-layer of ``nn.TransformerEncoderLayer`` or ``nn.TransformerDecoderLayer``."""

    def __init__(
        self, name: str, stack: str, layer: nn.Module, norm: nn.Module, container: nn.Module
    ) -> None:
        super().__init__(name, stack, norm)
        self.layer = layer
        self.container = container
        self.place = name.rpartition(".")[2]

    @property
    @override
    def skip(self) -> ScaledSkip | None:
        skip = self.layer._modules.get(f"{self.place}_skip")
        return skip if isinstance(skip, ScaledSkip) else None

    @override
    def install_(self) -> None:
        weight = self.norm_weight
        skip = ExcessSkip(self.width, device=weight.device, dtype=weight.dtype)
        self.layer.add_module(f"{self.place}_skip", skip)
        _extend_(self.layer, _RescaledLayer)
        if isinstance(self.container, nn.TransformerEncoder):
            _extend_(self.container, _PaddedEncoder)

    @override
    def uninstall_(self) -> None:
        self.layer._modules.pop(f"{self.place}_skip", None)
        if not any(isinstance(child, ScaledSkip) for child in self.layer.children()):
            _restore_(self.layer)
        if not any(isinstance(module, _RescaledLayer) for module in self.container.modules()):
            _restore_(self.container)

    @override
    def readers(self) -> Iterator[Rows]:
        if self.place == "ffn":
            yield Rows(self._linear("linear1").weight)
            return
        attention = self._attention()
        queries_only = self.place == "cross_attn"
        if attention._qkv_same_embed_dim:
            yield Rows(attention.in_proj_weight, 0, self.width if queries_only else None)
        else:
            yield Rows(attention.q_proj_weight)

    @override
    def output(self) -> nn.Linear:
        return self._linear("linear2") if self.place == "ffn" else self._attention().out_proj

    def _attention(self) -> nn.MultiheadAttention:
        name = "multihead_attn" if self.place == "cross_attn" else "self_attn"
        attention = self.layer.get_submodule(name)
        if not isinstance(attention, nn.MultiheadAttention):
            raise NotPostLNError(f"`{self.name}` is not an nn.MultiheadAttention")
        return attention

    def _linear(self, name: str) -> nn.Linear:
        linear = self.layer.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise NotPostLNError(f"`{name}` of `{self.name}` is not an nn.Linear")
        return linear


@register_adapter(nn.TransformerEncoderLayer)
def _encoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "encoder", ("self_attn", "ffn"))


@register_adapter(nn.TransformerDecoderLayer)
def _decoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "decoder", ("self_attn", "cross_attn", "ffn"))


def _sites(
    layer: nn.Module, name: str, model: nn.Module, default_stack: str, places: tuple[str, ...]
) -> list[ResidualSite]:
    if layer.norm_first:
        raise NotPostLNError(f"`{name or type(layer).__name__}` is Pre-LN (norm_first=True)")
    stack = layer_stack(name, default_stack)
    layers = name.rpartition(".")[0]
    container = model.get_submodule(layers.rpartition(".")[0]) if layers else layer
    prefix = f"{name}." if name else ""
    return [
        TorchSite(f"{prefix}{place}", stack, layer, layer.get_submodule(f"norm{i}"), container)
        for i, place in enumerate(places, start=1)
    ]
