"""Variances without the positions of padding, compared with plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import admin_init
from admin_init import ProfileError

B, T, D = 3, 5, 8


class Layer(nn.Module):
    def __init__(self, channels_first: bool) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.mix = nn.Conv1d(D, D, 1) if channels_first else nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.mix(x)
        return self.norm(y.mT).mT if self.channels_first else self.norm(y)  # type: ignore[no-any-return]


class Model(nn.Sequential):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)  # type: ignore[no-any-return]


def model(channels_first: bool = False) -> Model:
    torch.manual_seed(0)
    return Model(Layer(channels_first), Layer(channels_first)).double()


def padding(rows: int = B, length: int = T) -> Tensor:
    return torch.arange(length) >= torch.arange(rows)[:, None] % (length - 1) + 1


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "batch first": (lambda x: x, lambda mask: mask),
    "time first": (lambda x: x.transpose(0, 1), lambda mask: mask.T),
    "flattened": (lambda x: x.flatten(0, 1), lambda mask: mask.flatten()),
    "channels first": (lambda x: x.mT, lambda mask: mask),
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_variances_are_those_of_the_other_positions(layout: str) -> None:
    first = layout == "channels first"
    net, (arrange, oriented) = model(first), LAYOUTS[layout]
    x = torch.randn(B, T, D, dtype=torch.float64) * (1.0 + 9 * padding()[..., None])
    x = arrange(x)
    mask = oriented(padding())
    given = padding().flatten() if layout == "flattened" else padding()

    def kept(y: Tensor) -> float:
        return (y.mT if first else y)[~mask].var(correction=0).item()

    found = admin_init.profile(net, [x], ignore_padding=lambda _: given)
    y = net[0](x)
    for site, z, layer in zip(found.sites, (x, y), net, strict=True):
        assert site.shortcut_variance == pytest.approx(kept(z), rel=1e-9)
        assert site.variance == pytest.approx(kept(layer.mix(z)), rel=1e-9)  # type: ignore[operator,union-attr]
        assert site.elements == (~mask).sum() * D
    omega = math.sqrt(kept(x) + kept(net[0].mix(x)))  # type: ignore[operator,union-attr]
    assert found.sites[1].omega == pytest.approx(omega, rel=1e-9)
    assert admin_init.profile(net, [x]).sites[1].omega > 2 * omega
    assert admin_init.initialize_(net, x, ignore_padding=lambda _: given) == found


def test_a_key_of_the_batch_and_several_batches() -> None:
    x = torch.randn(B, T, D, dtype=torch.float64)
    batches = [{"x": x, "mask": (~padding()).long()}, {"x": 2 * x, "mask": (~padding()).long()}]
    found = admin_init.profile(model(), batches, ignore_padding="mask")
    expected = admin_init.profile(model(), batches, ignore_padding=lambda b: b["mask"] == 0)
    assert found == expected
    kept = (~padding()).sum().item() * D
    assert [site.elements for site in found.sites] == [2 * kept] * 2


def test_each_stack_has_its_own_mask() -> None:
    torch.manual_seed(0)
    net = nn.Transformer(D, 2, 1, 1, 16, 0.0, batch_first=True)
    batch = (torch.randn(B, T, D), torch.randn(B, T, D))
    with pytest.raises(ProfileError, match=r"2 stacks \(encoder, decoder\)"):
        admin_init.profile(net, [batch], ignore_padding=lambda _: padding())
    found = admin_init.profile(net, [batch], ignore_padding=lambda _: {"encoder": padding()})
    kept = (~padding()).sum().item() * D
    assert {s.stack: s.elements for s in found.sites} == {"encoder": kept, "decoder": B * T * D}
    variance = batch[0][~padding()].var(correction=0).item()
    assert found.sites[0].shortcut_variance == pytest.approx(variance)


def test_ambiguity_is_refused_until_the_mask_says_where_the_channels_are() -> None:
    x = torch.randn(T, T, D, dtype=torch.float64)
    mask = padding(T)
    with pytest.raises(ProfileError, match="in 2 ways"):
        admin_init.profile(model(), [x], ignore_padding=lambda _: mask)
    found = admin_init.profile(model(), [x], ignore_padding=lambda _: mask[..., None])
    variance = x[~mask].var(correction=0).item()
    assert found.sites[0].shortcut_variance == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("attention_mask", "has no such key"),
        (lambda _: padding().long(), "boolean tensors"),
        (lambda _: None, "but gave NoneType"),
        (lambda _: torch.ones(B, T, dtype=torch.bool), "at least one position"),
        (lambda _: padding(B, T + 1), "in no ways"),
    ],
)
def test_refusals(given: Any, message: str) -> None:
    x = torch.randn(B, T, D, dtype=torch.float64)
    with pytest.raises(ProfileError, match=message):
        admin_init.profile(model(), [x], ignore_padding=given)
