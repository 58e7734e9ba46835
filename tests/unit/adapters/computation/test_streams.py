"""Sums that a norm reads in models that are not Post-LN."""

import pytest
import torch
from _helpers.plain_post_ln import D, Stack, SubLayer
from torch import Tensor, nn

from admin_init import UnsupportedModelError
from admin_init.adapters.discovery import find_sites


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


class Square(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.square = SquareOf()

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.square(x)
        return y


class SquareOf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


def test_a_square_is_no_multiple(x: Tensor) -> None:
    sites = find_sites(Stack(Square), x)
    assert [site.name for site in sites] == [f"layers.{i}.square" for i in range(3)]


def test_a_norm_that_is_written_out_is_no_factor(x: Tensor) -> None:
    class WrittenOut(SubLayer):
        def forward(self, x: Tensor) -> Tensor:
            normed = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
            y: Tensor = self.norm(x + normed)
            return y

    with pytest.raises(UnsupportedModelError, match=r"no module returns its branch"):
        find_sites(Stack(WrittenOut), x)
