"""Norms told by what they compute."""

import pytest
import torch
from _helpers.plain_post_ln import D, OwnNorm
from torch import Tensor, nn

from admin_init.adapters.computation.norms import fit_norm


class OneOver(nn.Module):
    """``gain * x / |x|``, with one gain for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.g * nn.functional.normalize(x, dim=-1)


class WithAFactor(nn.LayerNorm):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class ChannelsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return y


@pytest.mark.parametrize(
    ("module", "shape", "axis", "gain"),
    [
        (nn.LayerNorm(D), (2, 5, D), -1, 1.0),
        (nn.LayerNorm(D), (1, D), -1, 1.0),
        (nn.LayerNorm(D, elementwise_affine=False), (2, 5, D), -1, 1.0),
        (nn.LayerNorm(768).bfloat16(), (2, 5, 768), -1, 1.0),
        (nn.RMSNorm(D), (2, 5, D), -1, 1.0),
        (OwnNorm(), (2, 5, D), -1, ((D - 1) / D) ** 0.5),  # the unbiased standard deviation
        (OneOver(), (2, 5, D), -1, 2 / D**0.5),
        (ChannelsFirst(), (2, D, 7), -2, 1.0),
        (WithAFactor(D), (2, 5, D), -1, 1.0),
    ],
)
def test_norms(module: nn.Module, shape: tuple[int, ...], axis: int, gain: float) -> None:
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    state = torch.get_rng_state()
    fit = fit_norm(module, shape, dtype)
    assert fit is not None
    assert fit.axis == axis
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(fit.gain, torch.full_like(fit.gain, gain), rtol=tolerance, atol=0)
    torch.testing.assert_close(fit.bias, torch.zeros_like(fit.bias), rtol=0, atol=tolerance)
    assert torch.equal(torch.get_rng_state(), state)


def test_gain_and_bias_are_those_of_the_channels() -> None:
    norm = nn.LayerNorm(D)
    nn.init.uniform_(norm.weight, 1, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    fit = fit_norm(norm, (2, 5, D), torch.float32)
    assert fit is not None
    torch.testing.assert_close(fit.gain.float(), norm.weight.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fit.bias.float(), norm.bias.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Identity(), (2, 5, D)),
        (nn.ReLU(), (2, 5, D)),
        (nn.Tanh(), (2, 5, D)),
        (nn.Softmax(-1), (2, 5, D)),
        (nn.Dropout(), (2, 5, D)),
        (nn.Linear(D, D), (2, 5, D)),
        (nn.BatchNorm1d(D), (20, D)),  # over the batch
        (nn.GroupNorm(1, D), (2, D, 5)),  # over channels and tokens
        (nn.LayerNorm((5, D)), (2, 5, D)),
        (nn.Bilinear(D, D, D), (2, 5, D)),  # takes two arguments
    ],
)
def test_other_modules(module: nn.Module, shape: tuple[int, ...]) -> None:
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert fit_norm(module, shape, torch.float32) is None
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
