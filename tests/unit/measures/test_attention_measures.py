"""Attention logits, entropy and log Z by hand, and as a model's attentions show them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from admin_init.measures import attention_entropy, largest_attention_logit, output_log_z
from admin_init.measures.attention_hooks import observe_attention
from admin_init.nn import Transformer, TransformerConfig


def tensors(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_largest_logit_by_hand() -> None:
    query = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]])[None, None]
    key = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 4.0, 1.0]])[None, None]
    # <q1, k1> = 4, <q2, k2> = 12, the others 0; d_h = 4.
    assert largest_attention_logit(query, key) == pytest.approx(6.0)
    hidden = torch.tensor([[True, True], [True, False]])
    assert largest_attention_logit(query, key, hidden) == pytest.approx(2.0)
    added = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
    assert largest_attention_logit(query, key, added) == pytest.approx(2.0)


def test_largest_logit_is_in_float32_under_autocast() -> None:
    query, key = tensors(2, 2, 5, 8)
    exact = largest_attention_logit(query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert largest_attention_logit(query, key) == exact


def test_entropy_of_uniform_and_of_certain_attention() -> None:
    zeros = torch.zeros(2, 3, 4, 8)
    assert attention_entropy(zeros, zeros) == pytest.approx(math.log(4))
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    expected = sum(math.log(n) for n in (1, 2, 3, 4)) / 4
    assert attention_entropy(zeros, zeros, causal) == pytest.approx(expected)
    certain = 100 * torch.eye(4).expand(1, 1, 4, 4)
    assert attention_entropy(certain, certain) == pytest.approx(0, abs=1e-6)


def test_entropy_is_minus_sum_of_a_log_a() -> None:
    query, key = tensors(2, 2, 5, 8)
    weights = (query @ key.mT / 8**0.5).softmax(-1)
    expected = -(weights * weights.log()).sum(-1).mean()
    torch.testing.assert_close(attention_entropy(query, key), expected)


def test_log_z_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(5), math.log(11)]]])
    assert output_log_z(logits) == pytest.approx((math.log(4) + math.log(16)) / 2)
    # exp would overflow in half precision.
    assert output_log_z(torch.full((1, 2), 60.0).half()) == pytest.approx(60 + math.log(2))


def seen_in(model: nn.Module, *inputs: Any, **options: Any) -> dict[str, float]:
    seen: dict[str, float] = {}
    handles = observe_attention(
        model, lambda name, *terms: seen.update({name: float(largest_attention_logit(*terms))})
    )
    model(*inputs, **options)
    for handle in handles:
        handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return seen


def test_attentions_of_our_transformer_are_seen_with_their_masks() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary_size=30, dim=8, ffn_dim=8, heads=2, encoder_layers=1, decoder_layers=1, dropout=0
    )
    model = Transformer(config)
    source = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]])
    target = torch.randint(4, 30, (2, 3))
    seen = seen_in(model, source, target)
    assert list(seen) == [
        "encoder.layers.0.self_attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.cross_attn",
    ]
    x = model.encoder_embedding(source)
    attention = model.encoder.layers[0].self_attn
    q, k, _ = attention.in_proj(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    logits = (q @ k.mT / 2).masked_fill(source.eq(1)[:, None, None], -math.inf)
    assert seen["encoder.layers.0.self_attn"] == pytest.approx(logits.max().item())
    y = model.decoder_embedding(target)
    q, k, _ = (
        model.decoder.layers[0].self_attn.in_proj(y).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    )
    causal = (q @ k.mT / 2).masked_fill(torch.ones(3, 3).triu(1) > 0, -math.inf)
    assert seen["decoder.layers.0.self_attn"] == pytest.approx(causal.max().item())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 6])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", ["none", "padding", "per head", "both"])
def test_attention_of_torch_is_seen_as_its_weights_say(
    batch_first: bool, kdim: int | None, bias: bool, mask: str
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, bias=bias, kdim=kdim, batch_first=batch_first)
    if bias:
        nn.init.normal_(attention.in_proj_bias)
    query, key = torch.randn(3, 4, 8), torch.randn(3, 5, kdim or 8)
    value = torch.randn(3, 5, 8)
    options: dict[str, Any] = {}
    if mask in ("padding", "both"):
        options["key_padding_mask"] = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [4]])
    if mask in ("per head", "both"):
        options["attn_mask"] = torch.rand(6, 4, 5) > 0.7
        options["attn_mask"][..., 0] = False
    inputs = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
    logits: list[Tensor] = []
    handles = observe_attention(attention, lambda name, q, k, m: logits.append(_weights(q, k, m)))
    _, weights = attention(*inputs, average_attn_weights=False, **options)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits[0], weights)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    logits = query @ key.mT / query.shape[-1] ** 0.5
    return (logits if mask is None else logits + mask).softmax(-1)


def test_attention_of_torch_takes_one_sequence_without_a_batch() -> None:
    attention = nn.MultiheadAttention(8, 2)
    x = torch.randn(4, 8)
    alone = seen_in(attention, x, x, x)
    assert alone == pytest.approx(seen_in(attention, x[:, None], x[:, None], x[:, None]))


def test_a_layer_of_torch_is_seen_while_it_trains() -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    seen = seen_in(layer, torch.randn(2, 3, 8), torch.randn(2, 4, 8))
    assert list(seen) == ["self_attn", "cross_attn"]


def test_nothing_is_left_behind_by_an_attention_that_fails() -> None:
    config = TransformerConfig(
        vocabulary_size=30, dim=8, ffn_dim=8, heads=2, encoder_layers=1, decoder_layers=1
    )
    model = Transformer(config)
    calls: list[str] = []
    handles = observe_attention(model, lambda name, *_: calls.append(name))
    attention = model.encoder.layers[0].self_attn
    with pytest.raises(RuntimeError):
        attention(torch.randn(2, 3, 7))
    for handle in handles:
        handle.remove()
    nn.functional.scaled_dot_product_attention(*[torch.randn(1, 1, 2, 4)] * 3)
    assert calls == []
