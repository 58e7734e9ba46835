"""The output change against formulas written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from admin_init.measures import (
    gradient_step_change,
    output_change,
    perturb_,
    sublayer_output_changes,
)
from admin_init.nn import LanguageModel, TransformerConfig
from admin_init.scaled_skip import ScaledSkip


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4)).double()


def inputs() -> Tensor:
    return torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)).double()


def model(residual: str = "post", layers: int = 2, dropout: float = 0.1) -> LanguageModel:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary_size=40,
        dim=16,
        ffn_dim=32,
        heads=2,
        encoder_layers=0,
        decoder_layers=layers,
        dropout=dropout,
        residual=residual,
    )
    return LanguageModel(config)


TOKENS = torch.randint(4, 40, (3, 7), generator=torch.Generator().manual_seed(2))


def test_perturb_moves_every_weight_by_delta_and_nothing_else() -> None:
    layers = [nn.Linear(8, 8), nn.LayerNorm(8), ScaledSkip(8), nn.Embedding(9, 8)]
    net = nn.ModuleList(layers)
    net.register_parameter("alpha", nn.Parameter(torch.zeros(())))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    perturb_(net, 0.25, torch.Generator().manual_seed(0))
    moved = {name: (p - before[name]).detach() for name, p in net.named_parameters()}
    for name in ("0.weight", "3.weight"):
        torch.testing.assert_close(moved.pop(name).abs(), torch.full_like(before[name], 0.25))
    assert all((change == 0).all() for change in moved.values())
    assert set(moved) == {"0.bias", "1.weight", "1.bias", "2.omega", "alpha"}


def test_perturb_draws_both_signs_and_obeys_its_generator() -> None:
    nets = [nn.Linear(100, 100, bias=False) for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        nn.init.zeros_(net.weight)
        perturb_(net, 1.0, torch.Generator().manual_seed(seed))
    assert abs(nets[0].weight.mean()) < 0.05
    assert torch.equal(nets[0].weight, nets[1].weight)
    assert not torch.equal(nets[0].weight, nets[2].weight)


def test_output_change_of_two_linear_layers_by_hand() -> None:
    net, x, delta = two_layers(), inputs(), 1e-3
    generator = torch.Generator().manual_seed(5)
    w1, w2 = net[0].weight, net[2].weight
    e1, e2 = (delta * torch.randn(w.shape, generator=generator).sign().double() for w in (w1, w2))
    hidden = x @ w1.T + net[0].bias
    perturbed = (x @ (w1 + e1).T + net[0].bias) @ (w2 + e2).T
    difference = perturbed - hidden @ w2.T
    expected = difference.square().sum() / 6  # 2 sequences of 3 tokens
    measured = output_change(net, lambda: net(x), delta=delta, seed=5)
    assert measured == pytest.approx(expected.item(), rel=1e-9)


def test_only_masked_tokens_count() -> None:
    net, x = two_layers(), inputs()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    parts = [output_change(net, lambda i=i: net(x[i : i + 1])) for i in range(2)]  # type: ignore[misc]
    assert output_change(net, lambda: net(x)) == pytest.approx(sum(parts) / 2)
    masked = output_change(net, lambda: net(x), mask=mask)
    kept = x[mask][None]
    assert masked == pytest.approx(output_change(net, lambda: net(kept)))


@pytest.mark.parametrize("mask", [torch.ones(3, 2, dtype=torch.bool), torch.zeros(2, 3) > 0])
def test_a_mask_without_tokens_or_of_another_shape_is_refused(mask: Tensor) -> None:
    net = two_layers()
    with pytest.raises(ValueError, match=r"`mask` must be True for some of the tokens"):
        output_change(net, lambda: net(inputs()), mask=mask)


def test_gradient_step_of_two_linear_layers_by_hand() -> None:
    net, x, step = two_layers(), inputs(), 1e-4
    w1, b1, w2 = (p.detach() for p in (net[0].weight, net[0].bias, net[2].weight))
    # L = sum of F: dL/dW2 is the sum of hidden units in each row, dL/dW1 = (column sums of W2) x^T.
    hidden = (x @ w1.T + b1).flatten(0, 1)
    s2 = hidden.sum(0).sign().expand_as(w2)
    s1 = torch.outer(w2.sum(0), x.flatten(0, 1).sum(0)).sign()
    after = (x @ (w1 - step * s1).T + b1) @ (w2 - step * s2).T
    difference = after - (x @ w1.T + b1) @ w2.T
    expected = difference.square().sum() / 6
    measured = gradient_step_change(net, lambda: net(x), torch.sum, step=step)
    assert measured == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calls = 0

    def run() -> Tensor:
        nonlocal calls
        calls += 1
        assert not net.training
        if fails and calls == 2:
            raise KeyboardInterrupt
        return net.hidden(TOKENS)

    for measure in (
        lambda: output_change(net, run),
        lambda: gradient_step_change(net, run, torch.sum),
        lambda: sublayer_output_changes(net, run),
    ):
        calls = 0
        if fails:
            with pytest.raises(KeyboardInterrupt):
                measure()
        else:
            measure()
        assert net.training
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())
        assert not any(module._forward_hooks for module in net.modules())


def test_changes_of_sublayers_are_relative_to_each_tokens_spread() -> None:
    net = model("pre", layers=1, dropout=0.0)
    tokens = TOKENS
    changes = sublayer_output_changes(net, lambda: net(tokens), delta=1e-3, seed=3)
    layer = net.stack.layers[0]

    def outputs() -> list[Tensor]:
        x = net.embedding(tokens)
        attn, ffn = layer.self_attn, layer.ffn
        first = x + attn(layer.self_attn_residual.norm(x), causal=True)
        second = first + ffn(layer.ffn_residual.norm(first))
        return [o / o.std(-1, correction=0, keepdim=True) for o in (first, second)]

    with torch.no_grad():
        before = outputs()
        perturb_(net, 1e-3, torch.Generator().manual_seed(3))
        after = outputs()
    names = ["decoder.layers.0.self_attn", "decoder.layers.0.ffn"]
    assert list(changes) == names
    for name, old, new in zip(names, before, after, strict=True):
        expected = (new - old).square().sum(-1).mean().item()
        assert changes[name] == pytest.approx(expected, rel=1e-3)


def test_a_model_without_known_sublayers_is_refused() -> None:
    net = two_layers()
    with pytest.raises(ValueError, match=r"No residual connection .* in Sequential"):
        sublayer_output_changes(net, lambda: net(inputs()))


def test_post_ln_changes_linearly_and_pre_ln_less() -> None:
    depths = [6, 12, 24]
    changes = {}
    for residual in ("post", "pre"):
        nets = [model(residual, layers=n // 2) for n in depths]
        changes[residual] = [output_change(net, lambda n=net: n.hidden(TOKENS)) for net in nets]  # type: ignore[misc]
    growth = {residual: values[-1] / values[0] for residual, values in changes.items()}
    assert growth["post"] > 1.5 * growth["pre"]
