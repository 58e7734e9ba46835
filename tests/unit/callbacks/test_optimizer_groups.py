"""Weight decay without omega, beside optimizers whose groups are written by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from admin_init.callbacks.optimizer_groups import spare_from_weight_decay

LATER = [lambda step: 0.9**step, lambda step: 0.5**step]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("build", "options"),
    [(AdamW, {}), (AdamW, {"fused": True}), (Adam, {"amsgrad": True}), (SGD, {"momentum": 0.9})],
)
def test_a_step_is_that_of_groups_written_by_hand(build: Any, options: dict[str, Any]) -> None:
    first, other = model(), model()
    optimizer = build(
        [
            {"params": [first[0].weight, first[1].weight, first[0].bias], "weight_decay": 0.5},
            {"params": [first[1].bias, first[2].weight, first[2].bias]},
        ],
        lr=0.1,
        **options,
    )
    schedule = LambdaLR(optimizer, LATER)
    written = copy.deepcopy(optimizer.state_dict()["param_groups"])
    spare_from_weight_decay(
        optimizer, [first[1].weight, first[2].bias, nn.Parameter(torch.ones(1))]
    )

    by_hand = build(
        [
            {"params": [other[0].weight, other[0].bias], "weight_decay": 0.5},
            {"params": [other[1].bias, other[2].weight]},
            {"params": [other[1].weight], "weight_decay": 0.0},
            {"params": [other[2].bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        **options,
    )
    schedule_by_hand = LambdaLR(by_hand, 2 * LATER)
    for seed in range(4):
        step(first, optimizer, seed)
        step(other, by_hand, seed)
        schedule.step()
        schedule_by_hand.step()
        for name, value in first.named_parameters():
            torch.testing.assert_close(value, other.get_parameter(name))
    for group, before in zip(optimizer.state_dict()["param_groups"], written, strict=True):
        assert group | {"lr": 0} == before | {"lr": 0}


def test_a_group_of_nothing_else_is_spared_too() -> None:
    ours = nn.Parameter(torch.ones(3))
    optimizer = SGD([ours], lr=1.0, weight_decay=0.5)
    OneCycleLR(optimizer, max_lr=[1.0], total_steps=9)
    spare_from_weight_decay(optimizer, [ours])
    ours.grad = torch.zeros(3)
    optimizer.step()
    assert ours.tolist() == [1, 1, 1]
    assert optimizer.param_groups[0]["params"] == [ours]
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_groups_are_whole_again_after_a_step_that_failed() -> None:
    ours, decayed = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGD([ours, decayed], lr=1.0, weight_decay=0.5)
    spare_from_weight_decay(optimizer, [ours])
    spare_from_weight_decay(optimizer, [ours])  # a second time changes nothing

    def fail() -> float:
        assert len(optimizer.param_groups) == 2  # appended, so that the first is as it was
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(fail)
    ours.grad = decayed.grad = torch.zeros(1)
    optimizer.step()
    assert (ours.item(), decayed.item()) == (1.0, 0.5)
    (group,) = optimizer.param_groups
    assert group["params"] == [ours, decayed]
