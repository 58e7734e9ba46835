import pytest
import torch
from torch import Tensor, nn

from admin_init.nn.attention import (
    CrossAttention,
    SelfAttention,
    causal_padding_mask,
    padding_mask,
)
from admin_init.nn.cache import LayerCache


def by_hand(
    attention: SelfAttention | CrossAttention,
    x: Tensor,
    memory: Tensor,
    hidden: Tensor | None = None,
) -> Tensor:
    """softmax(Q K^T / sqrt(d_h)) V, head after head, position after position."""
    weights, width = attention.projections(), attention.head_dim
    biases = (
        attention.in_proj.bias.chunk(3)
        if isinstance(attention, SelfAttention)
        else (attention.q_proj.bias, *attention.kv_proj.bias.chunk(2))
    )
    query = x @ weights["query"].T + biases[0]
    key = memory @ weights["key"].T + biases[1]
    value = memory @ weights["value"].T + biases[2]
    heads = []
    for h in range(attention.heads):
        at = slice(h * width, (h + 1) * width)
        logits = query[..., at] @ key[..., at].transpose(1, 2) / width**0.5
        if hidden is not None:
            logits = logits.masked_fill(hidden, -torch.inf)
        heads.append(logits.softmax(-1) @ value[..., at])
    return torch.cat(heads, dim=-1) @ weights["output"].T + attention.out_proj.bias


def test_self_attention_by_hand() -> None:
    torch.manual_seed(0)
    attention, x = SelfAttention(12, 3), torch.randn(2, 5, 12)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(attention(x), by_hand(attention, x, x))
    torch.testing.assert_close(attention(x, causal=True), by_hand(attention, x, x, future))


def test_cross_attention_by_hand() -> None:
    torch.manual_seed(0)
    attention, x, memory = CrossAttention(12, 3), torch.randn(2, 4, 12), torch.randn(2, 6, 12)
    padding = torch.tensor([[False] * 4 + [True] * 2, [False] * 6])
    out = attention(x, memory, padding_mask(padding, x.dtype))
    torch.testing.assert_close(out, by_hand(attention, x, memory, padding[:, None]))


def test_causal_padding_mask() -> None:
    padding = torch.tensor([[True, False, False, True]])
    mask = causal_padding_mask(padding, torch.float32)
    seen = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert mask.shape == (1, 1, 4, 4)
    assert (mask[0, 0] == 0).int().tolist() == seen
    assert mask[0, 0, 0, 1] == -torch.inf


def test_no_padding_is_no_mask() -> None:
    assert padding_mask(None, torch.float32) is None
    assert causal_padding_mask(None, torch.float32) is None


@pytest.mark.parametrize("kind", [SelfAttention, CrossAttention])
def test_projections_are_views_of_the_parameters(
    kind: type[SelfAttention | CrossAttention],
) -> None:
    attention = kind(8, 2)
    with torch.no_grad():
        for i, weight in enumerate(attention.projections().values()):
            assert weight.shape == (8, 8)
            weight.fill_(i + 1.0)
    assert all((p != 0).all() for n, p in attention.named_parameters() if "weight" in n)
    values = {p.item() for n, q in attention.named_parameters() if "weight" in n for p in q[:, 0]}
    assert values == {1.0, 2.0, 3.0, 4.0}


def test_inner_norm_comes_before_the_output_projection() -> None:
    norm = nn.LayerNorm(8)
    attention = SelfAttention(8, 2, inner_norm=norm)
    seen = []
    norm.register_forward_hook(lambda module, args, out: seen.append(out))
    out = attention(torch.randn(2, 3, 8))
    torch.testing.assert_close(out, attention.out_proj(seen[0]))


def test_dropout_is_part_of_the_branch_and_only_in_training() -> None:
    attention, x = SelfAttention(8, 2, dropout=0.5), torch.randn(4, 6, 8)
    assert 0.3 < (attention(x) == 0).float().mean() < 0.7
    assert (attention.eval()(x) != 0).all()


def test_attention_dropout_only_in_training() -> None:
    attention, x = SelfAttention(8, 2, attention_dropout=0.5), torch.randn(4, 6, 8)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_several_hypotheses_share_the_keys_of_their_sentence() -> None:
    torch.manual_seed(0)
    attention, memory = CrossAttention(12, 3), torch.randn(2, 6, 12)
    cache = LayerCache()
    attention(torch.randn(2, 1, 12), memory, cache=cache)
    x = torch.randn(6, 1, 12)  # three hypotheses of each of the two sentences
    repeated = memory.repeat_interleave(3, dim=0)
    torch.testing.assert_close(attention(x, memory, cache=cache), attention(x, repeated))
