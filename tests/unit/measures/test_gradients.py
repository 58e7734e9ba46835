"""Norms of gradients and updates against formulas written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from admin_init.measures import gradient_norms, output_gradient_norms, update_ratios
from admin_init.nn import Transformer, TransformerConfig


def transformer(residual: str = "post", layers: int = 2) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary_size=40,
        dim=16,
        ffn_dim=32,
        heads=2,
        encoder_layers=layers,
        decoder_layers=layers,
        dropout=0.0,
        residual=residual,
    )
    return Transformer(config)


def loss_of(model: nn.Module) -> Tensor:
    source, target = torch.arange(4, 16).view(2, 6), torch.arange(20, 30).view(2, 5)
    loss: Tensor = model(source, target).logsumexp(-1).mean()
    return loss


def test_gradients_are_grouped_by_sublayer() -> None:
    model = transformer("admin", layers=1)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    norms = gradient_norms(model.named_parameters())
    layer = model.decoder.layers[0]
    own = [*layer.cross_attn.parameters(), *layer.cross_attn_residual.parameters()]
    squares = [p.grad.square().sum().item() for p in own if p.grad is not None]
    assert len(squares) == 9  # three projections with bias, norm with bias, omega
    assert norms["decoder.layers.0.cross_attn"].item() == pytest.approx(sum(squares) ** 0.5)
    assert set(norms) == {
        "encoder_embedding.tokens",
        *(f"encoder.layers.0.{place}" for place in ("self_attn", "ffn")),
        *(f"decoder.layers.0.{place}" for place in ("self_attn", "cross_attn", "ffn")),
    }
    total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert torch.stack(list(norms.values())).norm() == pytest.approx(total.item())


def test_groups_of_a_layer_of_torch() -> None:
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
    model(torch.randn(2, 3, 16), torch.randn(2, 3, 16)).sum().backward()
    norms = gradient_norms(model.named_parameters())
    layer = model.decoder.layers[0]
    ffn = [p.grad for m in (layer.linear1, layer.linear2) for p in m.parameters()]
    expected = sum(g.square().sum().item() for g in ffn if g is not None) ** 0.5
    assert norms["decoder.layers.0.ffn"].item() == pytest.approx(expected)
    assert {"decoder.layers.0.self_attn", "decoder.layers.0.cross_attn", "encoder.norm"} <= set(
        norms
    )


def test_parameters_without_a_gradient_are_left_out() -> None:
    net = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    net["used"](torch.ones(1, 2)).sum().backward()
    assert list(gradient_norms(net.named_parameters())) == ["used"]
    assert gradient_norms([]) == {}


def test_update_ratio_by_hand() -> None:
    before = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.ones(2, 2)}
    after = {"b": torch.full((2, 2), 1.5), "a": torch.tensor([[3.0, 4.5]]), "c": torch.ones(1)}
    ratios = update_ratios(before, after)
    assert {name: ratio.item() for name, ratio in ratios.items()} == pytest.approx(
        {"a": 0.1, "b": 0.5}
    )
    assert update_ratios({}, {}) == {}


@pytest.mark.parametrize("residual", ["post", "pre", "resi-dual"])
def test_gradients_at_the_outputs_of_sublayers(residual: str) -> None:
    model = transformer(residual)
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    norms = output_gradient_norms(model, lambda: loss_of(model))
    assert all(p.grad is None for p in model.parameters())
    layers = [*model.encoder.layers, *model.decoder.layers]
    for layer in layers:
        for place in ("self_attn", "cross_attn", "ffn"):
            if hasattr(layer, place):
                getattr(layer, f"{place}_residual").register_forward_hook(keep)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    expected = [x.grad.norm().item() for x in kept if x.grad is not None]
    assert list(norms.values()) == pytest.approx(expected)
    assert next(iter(norms)) == "encoder.layers.0.self_attn"
    assert list(norms)[-1] == "decoder.layers.1.ffn"
