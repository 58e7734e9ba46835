"""A compiled fairseq model whose layers were rescaled."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from _helpers.perturb import perturb_, train_omegas_
from _helpers.small_fairseq import (
    Batch,
    D,
    config,
    logits,
    make_batch,
    transformer,
)

import admin_init

from fairseq.modules.transformer_layer import (  # isort: skip
    TransformerDecoderLayerBase,
)


@pytest.fixture
def batch() -> Batch:
    return make_batch()


@pytest.fixture
def _compiles() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_compiles")
def test_compile(batch: Batch) -> None:
    model = transformer(encoder_layers=1, decoder_layers=1)
    profile = admin_init.profile(model, [batch])
    compiled: Any = torch.compile(model, backend="eager")
    compiled(*batch)
    assert admin_init.profile(compiled, [batch]).sites[4].omega == profile.sites[4].omega
    train_omegas_(perturb_(compiled))
    for mode in (True, False):
        expected = logits(model.train(mode), batch)
        torch.testing.assert_close(compiled(*batch)[0], expected)
    torch.testing.assert_close(
        admin_init.fold_(compiled)(*batch)[0], expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.usefixtures("_compiles")
def test_a_layer_compiles_into_one_graph() -> None:
    x, memory = torch.randn(2, 5, 3, D)
    layer = train_omegas_(perturb_(TransformerDecoderLayerBase(config())))
    compiled: Any = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x, memory)[0], layer(x, memory)[0])
