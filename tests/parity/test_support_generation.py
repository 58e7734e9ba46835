"""Greedy translations of an encoder-decoder, before and after its omegas are folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers.named_in_torch import sites_by_name
from torch import Tensor, nn

import admin_init
from admin_init.fairseq.model import FairseqTransformer
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.search import beam_search

WORDS, DIM, END = 40, 32, 2
CONFIG = TransformerConfig(
    vocabulary_size=WORDS, dim=DIM, ffn_dim=48, heads=4, share_embeddings="none"
)
SOURCE = torch.cat([torch.arange(4, 34).view(5, 6), torch.full((5, 1), END)], dim=1)


class TorchTranslator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, DIM)
        self.transformer = nn.Transformer(DIM, 4, 3, 3, 48, batch_first=True)
        self.output = nn.Linear(DIM, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.double)
        states = self.transformer(self.embedding(source), self.embedding(target), tgt_mask=mask)
        return self.output(states)  # type: ignore[no-any-return]


@torch.no_grad()
def greedy(model: nn.Module, source: Tensor) -> list[list[int]]:
    target = torch.full((len(source), 1), END)
    for _ in range(12):
        newest = model(source, target)[:, -1:].argmax(-1)
        target = torch.cat([target, newest], dim=1)
    return target.tolist()  # type: ignore[no-any-return]


NAMED = "torch.nn, sites named"


def searched(hypotheses: list[list[Any]]) -> list[list[int]]:
    return [best.tokens.tolist() for best, *_ in hypotheses]


Generate = Callable[[Any, Tensor], list[list[int]]]
CASES: dict[str, tuple[Callable[[], nn.Module], Generate]] = {
    "torch.nn, encoder-decoder": (TorchTranslator, greedy),
    NAMED: (TorchTranslator, greedy),
    "admin_init.nn.Transformer": (
        lambda: Transformer(CONFIG),
        lambda model, source: searched(beam_search(model, source, beam_size=1, max_len_b=12)),
    ),
    "fairseq Transformer": (
        lambda: FairseqTransformer(CONFIG),
        lambda model, source: searched(model.beam_search(source, beam_size=1, max_len_b=12)),
    ),
}


@pytest.mark.support
@pytest.mark.parametrize("row", CASES)
def test_generation_before_and_after_fold(row: str, cells: Callable[..., None]) -> None:
    build, generate = CASES[row]
    torch.manual_seed(0)
    # Float64, so that no two tokens are so close that rounding could exchange them.
    model = build().double().eval()
    plain = generate(model, SOURCE)
    sites = sites_by_name(model) if row == NAMED else admin_init.find_sites(model)
    profile = admin_init.profile(model, [(SOURCE, SOURCE.roll(1, 1))], sites=sites)
    admin_init.apply_(model, profile, sites=sites)
    rescaled = generate(model, SOURCE)
    assert rescaled != plain
    assert len({token for tokens in rescaled for token in tokens}) > 5
    admin_init.fold_(model, sites=sites)
    assert generate(model, SOURCE) == rescaled
    cells("Models", row, generate="the same tokens")
