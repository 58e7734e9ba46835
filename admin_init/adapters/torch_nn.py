"""torch.nn's Post-LN layers, whose sub-layers are methods that a subclass can extend."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from admin_init.adapters.class_swap import Extended, extend_, restore_
from admin_init.adapters.registry import register_adapter
from admin_init.adapters.skip_form import Rows, SkipSite, enclosing, known
from admin_init.errors import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.scaled_skip import ScaledSkip
from admin_init.sites import ResidualSite, layer_stack

# The last is what torch.export meets.
_ADDITIONS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, operator.add}


class _Summand:
    """What a sub-layer returns for ``x + summand`` to be ``skip(x, branch)``.

    It is a tensor-like type, which torch's functions ask what to do with it (``__torch_function__``
    in torch's notes on extending PyTorch). So the layer's own forward is the one that runs, and
    what it does with a sub-layer's output besides is refused.
    """

    def __init__(self, skip: ScaledSkip, branch: Tensor) -> None:
        self.skip = skip
        self.branch = branch
        self.has_graph = torch.is_grad_enabled()

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function not in _ADDITIONS or kwargs:
            raise _refusal(f"calls `{function.__name__}` with it")
        shortcut, summand = args if isinstance(args[1], cls) else reversed(args)
        if torch.is_grad_enabled() and not summand.has_graph:
            raise _refusal(
                "computes it without a graph, as reentrant checkpointing of a sub-layer does: take "
                "use_reentrant=False, or checkpoint the whole layer"
            )
        return summand.skip(shortcut, summand.branch)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise _refusal(f"takes its `{name}`")

    def __mul__(self, other: object) -> Any:
        raise _refusal("multiplies it")

    __rmul__ = __mul__


def _refusal(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "Admin scales the shortcut where a layer adds it, as `x + branch`, to what a sub-layer's "
        f"method returned, but this layer {what}. Have the method itself return what is added, or "
        "name the sub-layers (admin_init.named_sites)."
    )


class _RescaledLayer(Extended):
    """Has the shortcut scaled where the layer's forward adds it to a sub-layer's output."""

    # The fused inference kernel of nn.TransformerEncoderLayer knows no omega, and takes only the
    # activations that this attribute marks as known.
    activation_relu_or_gelu = property(lambda self: 0)

    def _sa_block(self, *args: Any, **kwargs: Any) -> Tensor | _Summand:
        return self._summand("self_attn_skip", super()._sa_block(*args, **kwargs))  # type: ignore[misc]

    def _mha_block(self, *args: Any, **kwargs: Any) -> Tensor | _Summand:
        return self._summand("cross_attn_skip", super()._mha_block(*args, **kwargs))  # type: ignore[misc]

    def _ff_block(self, *args: Any, **kwargs: Any) -> Tensor | _Summand:
        return self._summand("ffn_skip", super()._ff_block(*args, **kwargs))  # type: ignore[misc]

    def _summand(self, name: str, branch: Tensor) -> Tensor | _Summand:
        skip = getattr(self, name, None)
        return branch if skip is None else _Summand(skip, branch)


class _PaddedEncoder(Extended):
    """Keeps ``nn.TransformerEncoder`` from nested tensors, which only the fused kernel takes."""

    use_nested_tensor = property(lambda self: False)


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
        self.place = name.rpartition(".")[2]

    @property
    @override
    def skip(self) -> ScaledSkip | None:
        skip = self.layer._modules.get(f"{self.place}_skip")
        return skip if isinstance(skip, ScaledSkip) else None

    @override
    def install_(self) -> None:
        weight = self.norm_weight
        skip = ScaledSkip(self.width, device=weight.device, dtype=weight.dtype)
        self.layer.add_module(f"{self.place}_skip", skip)
        extend_(self.layer, _RescaledLayer)
        if self.encoder is not None:
            extend_(self.encoder, _PaddedEncoder)

    @override
    def uninstall_(self) -> None:
        self.layer._modules.pop(f"{self.place}_skip", None)
        if not any(isinstance(child, ScaledSkip) for child in self.layer.children()):
            restore_(self.layer)
        if self.encoder is not None and not any(
            isinstance(module, _RescaledLayer) for module in self.encoder.modules()
        ):
            restore_(self.encoder)

    @override
    def fold_targets(self) -> Iterable[Tensor]:
        targets = list(super().fold_targets())
        plain = getattr(self.layer, "plain_class", type(self.layer))
        base = _DECODER if issubclass(plain, _DECODER) else _ENCODER
        for method in ("forward", _BLOCKS[self.place]):
            if targets and getattr(plain, method) is not getattr(base, method):
                raise FoldError(
                    f"{plain.__name__} overrides `{method}`, so what reads the input of "
                    f"`{self.name}` is not known"
                )
        return targets

    @override
    def readers(self) -> Iterator[Rows]:
        if self.place == "ffn":
            yield Rows(known(self.layer, "linear1", nn.Linear, self.name).weight)
            return
        attention = self._attention()
        queries_only = self.place == "cross_attn"
        if attention._qkv_same_embed_dim:
            yield Rows(attention.in_proj_weight, 0, self.width if queries_only else None)
        else:
            yield Rows(attention.q_proj_weight)

    @override
    def output(self) -> nn.Linear:
        if self.place == "ffn":
            return known(self.layer, "linear2", nn.Linear, self.name)
        return self._attention().out_proj

    def _attention(self) -> nn.MultiheadAttention:
        name = "multihead_attn" if self.place == "cross_attn" else "self_attn"
        return known(self.layer, name, nn.MultiheadAttention, self.name)


@register_adapter(_ENCODER)
def _encoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "encoder", ("self_attn", "ffn"))


@register_adapter(_DECODER)
def _decoder_layer_sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    return _sites(layer, name, model, "decoder", ("self_attn", "cross_attn", "ffn"))


def _sites(
    layer: nn.Module, name: str, model: nn.Module, default_stack: str, places: tuple[str, ...]
) -> list[ResidualSite]:
    if layer.norm_first:
        raise NotPostLNError(f"`{name or type(layer).__name__}` is Pre-LN (norm_first=True)")
    stack = layer_stack(name, default_stack)
    encoder = enclosing(name, model, nn.TransformerEncoder)
    prefix = f"{name}." if name else ""
    return [
        TorchSite(f"{prefix}{place}", stack, layer, layer.get_submodule(f"norm{i}"), encoder)
        for i, place in enumerate(places, start=1)
    ]
