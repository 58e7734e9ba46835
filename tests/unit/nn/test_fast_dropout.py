"""Dropout, held to torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from admin_init.nn.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elements_are_dropped_with_probability_p(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((1000, 1001), 2.0, dtype=dtype)
    y = dropout(x, p, training=True)
    assert y.dtype == dtype
    expected = torch.tensor([0.0, 2 / (1 - p)], dtype=dtype)
    assert set(y.unique().tolist()) == set(expected.tolist())
    dropped = y.eq(0).double()
    # Six standard deviations of the mean of so many draws.
    assert float(dropped.mean()) == pytest.approx(p, abs=6 * (p * (1 - p) / x.numel()) ** 0.5)
    # Nor does one element say anything about a neighbour, in its own random number or the next.
    centred = (dropped - p).flatten()
    for distance in range(1, 9):
        correlation = (centred[:-distance] * centred[distance:]).mean() / (p * (1 - p))
        assert abs(float(correlation)) < 6 / x.numel() ** 0.5


def test_the_gradient_passes_where_the_element_did() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    y = dropout(x, 0.4, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5])
def test_any_number_of_elements(size: int) -> None:
    assert dropout(torch.ones(size), 0.5, training=True).shape == (size,)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_where_nothing_is_drawn(p: float) -> None:
    x = torch.randn(3, 4)
    assert torch.equal(dropout(x, p, training=False), x)
    if p in (0.0, 1.0):
        assert torch.equal(dropout(x, p, training=True), F.dropout(x, p))


def test_the_seed_decides() -> None:
    x = torch.ones(100)
    torch.manual_seed(1)
    first, second = dropout(x, 0.5, training=True), dropout(x, 0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.5, training=True), first)
    assert not torch.equal(first, second)


def test_a_view_is_not_written_to() -> None:
    x = torch.ones(4, 6)
    dropout(x.T, 0.5, training=True)
    assert torch.equal(x, torch.ones(4, 6))
