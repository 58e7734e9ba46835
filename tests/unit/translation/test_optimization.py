import math
from typing import Any

import pytest
import torch
from torch import nn

from admin_init.translation.optimization import OptimizationConfig


def rates(config: OptimizationConfig, updates: int) -> list[float]:
    """The learning rate of each update, as an optimizer really sees it."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer, schedule = config.build([weight])
    seen = []
    for _ in range(updates):
        seen.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(2)
        optimizer.step()
        schedule.step()
    return seen


def fairseq_inverse_sqrt(update: int, lr: float, warmup: int, initial: float) -> float:
    """Source: fairseq/optim/lr_scheduler/inverse_square_root_schedule.py, version 0.12.2."""
    if update < warmup:
        return initial + update * (lr - initial) / warmup
    decay_factor = lr * math.sqrt(warmup)
    return decay_factor / math.sqrt(update)


@pytest.mark.parametrize(("lr", "warmup", "initial"), [(1e-3, 10, 1e-7), (0.5, 1, 0.0)])
def test_inverse_sqrt_is_fairseqs(lr: float, warmup: int, initial: float) -> None:
    config = OptimizationConfig(
        learning_rate=lr, warmup_steps=warmup, initial_learning_rate=initial
    )
    expected = [fairseq_inverse_sqrt(update, lr, warmup, initial) for update in range(40)]
    assert rates(config, 40) == pytest.approx(expected, rel=1e-9)
    assert max(expected) == lr


def test_linear_rises_and_reaches_zero() -> None:
    config = OptimizationConfig(
        schedule="linear",
        learning_rate=0.8,
        warmup_steps=4,
        initial_learning_rate=0.0,
        total_steps=12,
    )
    expected = [0.0, 0.2, 0.4, 0.6, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    assert rates(config, 14) == pytest.approx(expected, abs=1e-12)


def test_constant_without_warm_up() -> None:
    config = OptimizationConfig(schedule="constant", learning_rate=0.3, warmup_steps=0)
    assert rates(config, 3) == [0.3] * 3


def test_without_warm_up_the_inverse_sqrt_begins_at_the_learning_rate() -> None:
    config = OptimizationConfig(learning_rate=0.3, warmup_steps=0)
    assert rates(config, 4) == pytest.approx([0.3, 0.3, 0.3 / 2**0.5, 0.3 / 3**0.5])


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.AdamW), ("radam", torch.optim.RAdam)]
)
def test_weight_decay_is_decoupled(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    config = OptimizationConfig(
        optimizer=name,
        schedule="constant",
        learning_rate=0.1,
        warmup_steps=0,
        weight_decay=0.5,
        betas=(0.8, 0.9),
        eps=1e-6,
    )
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer, _ = config.build([weight])
    assert isinstance(optimizer, kind)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-6
    weight.grad = torch.zeros(1)
    optimizer.step()
    # A gradient of 0 moves nothing, so that what is left is the decay: w - lr * decay * w.
    assert weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, but is 0.0"),
        ({"learning_rate": math.nan}, "`learning_rate` must be finite, but is nan"),
        ({"warmup_steps": -1}, "`warmup_steps` must be at least 0, but is -1"),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0, but is -0.1"),
        ({"initial_learning_rate": -1.0}, "`initial_learning_rate` must be at least 0"),
        ({"eps": -1.0}, "`eps` must be at least 0"),
        ({"betas": (0.9, 1.0)}, r"`betas` must be two numbers, .* is \(0.9, 1.0\)"),
        ({"betas": (0.9,)}, "`betas` must be two numbers"),
        ({"schedule": "cosine"}, "`schedule` must be one of inverse_sqrt, .*, but is 'cosine'"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of adam, radam, but is 'sgd'"),
        ({"schedule": "linear", "warmup_steps": 9, "total_steps": 9}, "must exceed .* but is 9"),
    ],
)
def test_bad_values_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizationConfig(**settings)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ValueError, match=r"learning_rate(.|\n)*warmup_steps"):
        OptimizationConfig(learning_rate=-1.0, warmup_steps=-1)
