"""Models that Admin does not apply to: every function says so, and leaves them as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import admin_init
from admin_init import AdminProfile, NotPostLNError, SiteProfile, UnsupportedModelError

PROFILE = AdminProfile(
    sites=(SiteProfile(name="layers.0.ffn", stack="encoder", variance=1.0, omega=1.0, elements=2),),
    rule="reference",
    batches=1,
    dtype="fp32",
)


def albert() -> nn.Module:
    config = hf.AlbertConfig(
        vocab_size=20, hidden_size=16, num_attention_heads=2, intermediate_size=24
    )
    return hf.AlbertModel(config)


def t5() -> nn.Module:
    return hf.T5EncoderModel(
        hf.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    )


def m2m_100() -> nn.Module:
    config = hf.M2M100Config(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24
    )
    return hf.M2M100Model(config)


def gpt2() -> nn.Module:
    return hf.GPT2Model(hf.GPT2Config(vocab_size=20, n_embd=24, n_layer=1))


def pre_ln() -> nn.Module:
    return nn.Transformer(16, 2, 1, 1, 24, norm_first=True)


ROWS: dict[str, tuple[Callable[[], nn.Module], type[Exception]]] = {
    "ALBERT": (albert, UnsupportedModelError),
    "T5": (t5, NotPostLNError),
    "M2M-100": (m2m_100, NotPostLNError),
    "GPT-2": (gpt2, NotPostLNError),
    "torch.nn, Pre-LN": (pre_ln, NotPostLNError),
}
TOKENS = torch.ones(1, 3, dtype=torch.int64)
BATCHES: dict[str, Any] = {
    "M2M-100": {"input_ids": TOKENS, "decoder_input_ids": TOKENS},
    "torch.nn, Pre-LN": (torch.ones(3, 1, 16), torch.ones(3, 1, 16)),
}
CALLS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "profile": lambda model, batch: admin_init.profile(model, [batch]),
    "rescale": lambda model, _: admin_init.apply_(model, PROFILE),
    "fold": lambda model, _: admin_init.fold_(model),
}


@pytest.mark.support
@pytest.mark.parametrize("row", ROWS)
def test_refused(row: str, cells: Callable[..., None]) -> None:
    build, error = ROWS[row]
    model = build()
    before: dict[str, Tensor] = copy.deepcopy(model.state_dict())
    for column, call in CALLS.items():
        # Without a batch, nobody knows what the layers of transformers compute.
        expected = (
            error if column == "profile" or row.startswith("torch") else UnsupportedModelError
        )
        with pytest.raises(expected) as refusal:
            call(model, BATCHES.get(row, TOKENS))
        cells("Models", row, **{column: "refused"}, generate="refused")
        if column == "profile":
            cells("Refusals", row, message=str(refusal.value).partition(". ")[0])
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
