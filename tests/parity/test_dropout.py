"""Against a forward written by hand: the branch is measured as it enters the sum."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import admin_init

D, P = 32, 0.3


class Chain:
    """The reference rule, on whatever is handed to it."""

    def __init__(self) -> None:
        self.omega = torch.tensor(1.0)
        self.omegas: list[float] = []
        self.variances: list[tuple[float, float]] = []

    def add(self, norm: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        dropped = F.dropout(branch, P)
        self.omegas.append(self.omega.item())
        self.variances.append(
            (dropped.var(correction=0).item(), branch.var(correction=0).item())
        )  # fmt: skip
        shortcut = self.omega * x
        total = shortcut.var(correction=0) + dropped.var(correction=0)
        self.omega = total.sqrt()
        y: Tensor = norm(shortcut + dropped)
        return y


def feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = layer.linear2(F.dropout(layer.linear1(x).relu(), P))  # type: ignore[operator]
    return y


@pytest.fixture
def model() -> nn.Transformer:
    torch.manual_seed(0)
    return nn.Transformer(D, 4, 3, 2, 64, P, batch_first=True)


@pytest.fixture
def chains(model: nn.Transformer) -> dict[str, Chain]:
    torch.manual_seed(1)
    source, target = torch.randn(4, 9, D), torch.randn(4, 7, D)
    torch.manual_seed(2)
    profile = admin_init.profile(model, [(source, target)])
    torch.manual_seed(2)
    encoder, decoder = Chain(), Chain()
    x = source
    with torch.no_grad():
        for layer in model.encoder.layers:
            x = encoder.add(layer.norm1, x, layer.self_attn(x, x, x, need_weights=False)[0])
            x = encoder.add(layer.norm2, x, feed_forward(layer, x))
        assert model.encoder.norm is not None
        memory, x = model.encoder.norm(x), target
        for layer in model.decoder.layers:
            x = decoder.add(layer.norm1, x, layer.self_attn(x, x, x, need_weights=False)[0])
            attended = layer.multihead_attn(x, memory, memory, need_weights=False)[0]
            x = decoder.add(layer.norm2, x, attended)
            x = decoder.add(layer.norm3, x, feed_forward(layer, x))
    for name, chain in (("encoder", encoder), ("decoder", decoder)):
        sites = [site for site in profile.sites if site.stack == name]
        assert [site.omega for site in sites] == pytest.approx(chain.omegas, rel=1e-5)
        expected = [after for after, _ in chain.variances]
        assert [site.variance for site in sites] == pytest.approx(expected, rel=1e-5)
    return {"encoder": encoder, "decoder": decoder}


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_omegas_under_dropout(chains: dict[str, Chain], stack: str) -> None:
    # The comparison above could fail: before dropout the variance is another one.
    for after, before in chains[stack].variances:
        assert after > 1.2 * before
