import math

import pytest
import torch
from torch import nn

from admin_init.nn.embedding import InputEmbedding, SinusoidalEmbedding, position_ids


def embedding(
    learned: bool = False, dropout: float = 0.0, dim: int = 8, max_positions: int = 10
) -> InputEmbedding:
    tokens = nn.Embedding(20, dim, padding_idx=1)
    return InputEmbedding(
        tokens, padding_idx=1, max_positions=max_positions, learned=learned, dropout=dropout
    )


def test_position_ids_count_tokens_from_after_the_padding_index() -> None:
    tokens = torch.tensor([[5, 6, 2, 1, 1], [1, 1, 5, 6, 2]])
    assert position_ids(tokens, 1).tolist() == [[2, 3, 4, 1, 1], [1, 1, 2, 3, 4]]


def test_sinusoids_follow_the_formula() -> None:
    table = SinusoidalEmbedding(12, 6, padding_idx=1).table
    for position in (0, 2, 11):
        for i in range(3):
            angle = position * math.exp(-i * math.log(10000) / 2)
            assert table[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, i + 3].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert not table[1].any()


@pytest.mark.parametrize("learned", [False, True])
def test_output_is_scaled_tokens_plus_positions(learned: bool) -> None:
    embed = embedding(learned)
    tokens = torch.tensor([[5, 6, 1]])
    positions = embed.positions(torch.tensor([[2, 3, 1]]))
    expected = embed.tokens.weight[tokens] * math.sqrt(8) + positions
    torch.testing.assert_close(embed(tokens), expected)


def test_an_offset_continues_a_sequence() -> None:
    embed = embedding()
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(embed(tokens[:, 2:], offset=2), embed(tokens)[:, 2:])


def test_dropout_only_in_training() -> None:
    embed = embedding(dropout=0.5)
    tokens = torch.full((4, 8), 5)
    dropped = (embed(tokens) == 0).float().mean()
    assert 0.3 < dropped < 0.7
    assert (embed.eval()(tokens) != 0).all()


def test_positions_are_not_in_the_checkpoint_unless_learned() -> None:
    assert set(embedding().state_dict()) == {"tokens.weight"}
    assert set(embedding(learned=True).state_dict()) == {"tokens.weight", "positions.weight"}


def test_a_sequence_may_be_as_long_as_max_positions() -> None:
    embed = embedding(max_positions=5)
    embed(torch.full((1, 5), 5))
    with pytest.raises(ValueError, match="`max_positions` = 5 tokens, but has 6"):
        embed(torch.full((1, 6), 5))
    with pytest.raises(ValueError, match="but has 6"):
        embed(torch.full((1, 1), 5), offset=5)
