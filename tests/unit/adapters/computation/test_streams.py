"""Sums that a norm reads in models that are not Post-LN."""

import pytest
import torch
from _helpers.plain_post_ln import D, Stack, SubLayer
from torch import Tensor, nn

from admin_init import NotPostLNError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites


class Scaled(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = 0.5 * x + self.branch(self.norm(x))
        return y


class Widened(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x.double() + self.branch(self.norm(x))
        return y.float()


class SideBySide(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.second, self.other = nn.LayerNorm(D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + (self.branch(self.norm(x)) + self.other(self.second(x)))
        return y


class GatedByAVector(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.full((D,), 0.9))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gate * x + self.branch(self.norm(x))
        return y


@pytest.mark.parametrize("kind", [Scaled, Widened, SideBySide, GatedByAVector])
def test_the_last_sum_of_a_pre_ln_stream_is_not_post_ln(kind: type[SubLayer], x: Tensor) -> None:
    model = nn.Sequential(Stack(kind), nn.LayerNorm(D))
    with pytest.raises(NotPostLNError, match=r"The 3 residual connections .* Pre-LN"):
        find_sites(model, x)


class NormedBranch(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.norm(self.branch(x))
        return y


def test_a_stream_of_normed_branches_is_refused(x: Tensor) -> None:
    model = nn.Sequential(Stack(NormedBranch), nn.LayerNorm(D))
    reason = r"none of the 1 .* `0.layers.2.norm`: its shortcut is itself a sum of a shortcut"
    with pytest.raises(UnsupportedModelError, match=reason):
        find_sites(model, x)
    # One that only begins with such a sum is Post-LN from there on.
    sites = find_sites(nn.Sequential(Stack(NormedBranch, 2), Stack(SubLayer)), x)
    assert [site.name for site in sites] == [f"1.layers.{i}.outer" for i in range(3)]
    assert [site.previous for site in sites] == [None, *sites[:-1]]


class MultipleOfX(SubLayer):
    def branch(self, x: Tensor) -> Tensor:
        return 0.3 * x


def test_a_multiple_of_x_is_no_branch(x: Tensor) -> None:
    with pytest.raises(UnsupportedModelError, match=r"computes no residual connection"):
        find_sites(Stack(MultipleOfX), x)


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
