"""Shared by the tests of what a model computes."""

import pytest
import torch
from _helpers.plain_post_ln import D
from torch import Tensor


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)
