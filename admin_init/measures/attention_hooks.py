"""Hooks that observe the queries and keys of attention modules during a forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from admin_init._utils.isolation import in_trial_pass
from admin_init.measures.names import sublayer_name
from admin_init.nn.attention import Attention

Record = Callable[[str, Tensor, Tensor, Tensor | None], object]
"""Called with the name of the attention, query (N, H, T, d_h), key (N, H, S, d_h) and mask, as for
:func:`admin_init.measures.largest_attention_logit`; without gradients."""


def observe_attention(model: nn.Module, record: Record) -> list[RemovableHandle]:
    """Call ``record`` in every forward pass of every attention, until the handles are removed.

    The attentions of :mod:`admin_init.nn` and :class:`torch.nn.MultiheadAttention` are supported;
    the latter's ``add_bias_kv`` and ``add_zero_attn`` are ignored. Compiled graphs are not
    observed.

    Args:
        model: Any module.
        record: Called before the attention is computed.

    Returns:
        The handles of the hooks; an empty list if the model has no supported attention.
    """
    handles: list[RemovableHandle] = []
    for module_name, module in model.named_modules():
        name = sublayer_name(module_name)
        if isinstance(module, Attention):
            # Queries and keys are arguments of a function, not of a module.
            watch = _Watch(name, record)
            handles.append(module.register_forward_pre_hook(watch.start))
            handles.append(module.register_forward_hook(watch.stop, always_call=True))
        elif isinstance(module, nn.MultiheadAttention):
            handles.append(
                module.register_forward_pre_hook(_torch_hook(name, record), with_kwargs=True)
            )
    return handles


class _Watch(TorchFunctionMode):
    """Intercepts ``scaled_dot_product_attention`` during the forward pass of one module."""

    def __init__(self, name: str, record: Record) -> None:
        super().__init__()
        self.name = name
        self.record = record
        self.active = False

    def start(self, module: nn.Module, args: object) -> None:
        if not (torch.compiler.is_compiling() or in_trial_pass()):
            self.__enter__()  # type: ignore[no-untyped-call]
            self.active = True

    def stop(self, module: nn.Module, args: object, output: object) -> None:
        if self.active:
            self.active = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            with torch.no_grad():
                query, key = args[:2]
                mask = kwargs.get("attn_mask")
                if kwargs.get("is_causal"):
                    shape = query.shape[-2], key.shape[-2]
                    mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
                self.record(self.name, query, key, mask)
        return func(*args, **kwargs)


_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def _torch_hook(name: str, record: Record) -> Any:
    @torch.no_grad()
    def hook(module: nn.MultiheadAttention, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or in_trial_pass():
            return
        given = _SIGNATURE.bind(module, *args, **kwargs).arguments
        query, key = given["query"], given["key"]
        if query.dim() == 2:
            query, key = query[None], key[None]
        elif not module.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        projected = [
            F.linear(x, weight, bias)
            for x, (weight, bias) in zip((query, key), _projections(module), strict=True)
        ]
        query, key = (x.view(*x.shape[:2], module.num_heads, -1).transpose(1, 2) for x in projected)
        attn_mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.reshape(-1, module.num_heads, *attn_mask.shape[1:])
        if padding is not None:
            padding = padding.reshape(-1, 1, 1, padding.shape[-1])
        masks = [_added(mask) for mask in (attn_mask, padding) if mask is not None]
        record(name, query, key, sum(masks[1:], masks[0]) if masks else None)

    return hook


def _projections(module: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor | None]]:
    if module._qkv_same_embed_dim:
        weights = list(module.in_proj_weight.chunk(3)[:2])
    else:
        weights = [module.q_proj_weight, module.k_proj_weight]
    bias = module.in_proj_bias
    biases = [None, None] if bias is None else bias.chunk(3)[:2]
    # Detached, because autocast caches casts of parameters, in older torch without gradients.
    return [(weight.detach(), bias) for weight, bias in zip(weights, biases, strict=True)]


def _added(mask: Tensor) -> Tensor:
    # In nn.MultiheadAttention, True means masked; in `scaled_dot_product_attention`, kept.
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, float("-inf"))
