import numpy as np
import pytest
import torch

from admin_init.omega import PooledVariance, variance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_variance_is_the_population_variance_of_all_elements(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)) * 2 + 7).to(dtype)
    measured = variance(x)
    exact = dtype is torch.float64
    assert measured.dtype is (torch.float64 if exact else torch.float32)
    assert measured.shape == ()
    assert measured.item() == pytest.approx(
        np.var(x.double().numpy()), rel=1e-12 if exact else 1e-5
    )


def test_variance_does_not_overflow_in_half_precision() -> None:
    x = torch.tensor([-60000.0, 60000.0], dtype=torch.float16)
    assert variance(x).item() == pytest.approx(3.6e9, rel=1e-3)


def test_variance_of_a_constant_is_zero() -> None:
    assert variance(torch.full((4, 4), 1e4)).item() == 0


def test_pooling_weights_each_batch_by_its_elements() -> None:
    pooled = PooledVariance(10, 2.0).pool(PooledVariance(30, 4.0))
    assert pooled == PooledVariance(40, (10 * 2.0 + 30 * 4.0) / 40)


def test_pooling_does_not_see_the_distance_between_batches() -> None:
    # Two batches around -100 and 100: each one's own variance counts, not that of their union.
    low, high = torch.randn(50) - 100, torch.randn(50) + 100
    pooled = PooledVariance(50, variance(low).item()).pool(
        PooledVariance(50, variance(high).item())
    )
    assert pooled.variance == pytest.approx((low.var(correction=0) + high.var(correction=0)) / 2)
    assert pooled.variance < 10 < torch.cat([low, high]).var(correction=0)


def test_pooling_in_any_order_gives_the_same() -> None:
    one, two, three = PooledVariance(7, 0.3), PooledVariance(11, 2.5), PooledVariance(2, 40.0)
    left = one.pool(two).pool(three)
    right = three.pool(two.pool(one))
    assert left.count == right.count == 20
    assert left.variance == pytest.approx(right.variance)
