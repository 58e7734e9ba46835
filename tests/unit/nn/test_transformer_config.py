from typing import Any

import pytest

from admin_init.nn import RESIDUAL_STYLES, TransformerConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 30}, "`dim` must be divisible by `heads` = 8, but is 30"),
        ({"dim": 7, "heads": 7}, "`dim` must be even and at least 4 for sinusoidal"),
        ({"encoder_layers": -1}, "`encoder_layers` must be at least 0, but is -1"),
        (
            {"encoder_layers": 0, "decoder_layers": 0},
            "`decoder_layers` must be at least 1, but both",
        ),
        ({"heads": 0}, "`heads` must be at least 1, but is 0"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, but is 1.0"),
        ({"residual": "psot"}, "`residual` must be one of admin, admin-closed, .*but is 'psot'"),
        ({"share_embeddings": "both"}, "`share_embeddings` must be one of all, target, none"),
        ({"positions": "rotary"}, "`positions` must be one of sinusoidal, learned"),
        ({"initialization": "he"}, "`initialization` must be one of xavier, torch, normal, gpt2"),
        ({"branch_scale": 0.0}, "`branch_scale` must be positive, but is 0.0"),
        ({"branch_scale": float("nan")}, "`branch_scale` must be finite, but is nan"),
        ({"input_scale": -3}, "`input_scale` must be positive, but is -3"),
        ({"input_scale": float("inf")}, "`input_scale` must be finite, but is inf"),
        ({"padding_idx": 100}, "`padding_idx` must be a token id, .*100, but is 100"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=100, **options)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"`ffn_dim`.*\n.*`attention_dropout`.*\n.*`dim`"):
        TransformerConfig(vocabulary_size=100, ffn_dim=0, attention_dropout=-0.1, dim=31)


def test_learned_positions_take_an_odd_dim() -> None:
    TransformerConfig(vocabulary_size=100, dim=7, heads=7, positions="learned")


def test_known_styles() -> None:
    assert {"post", "pre", "admin", "admin-closed", "admin-closed-constant"} <= set(RESIDUAL_STYLES)
