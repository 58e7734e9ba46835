"""Weight decay without omega, beside optimizers whose groups are written by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from admin_init.callbacks.initialization.optimizer_groups import spare_from_weight_decay

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


def decayed_and_spared(**options: Any) -> tuple[nn.Parameter, nn.Parameter, SGD]:
    decayed, spared = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    for parameter in (decayed, spared):
        parameter.grad = torch.zeros(1)
    return decayed, spared, SGD([spared, decayed], lr=1.0, weight_decay=0.5, **options)


def test_a_group_of_nothing_else_is_spared_too() -> None:
    _, spared, _ = decayed_and_spared()
    optimizer = SGD([spared], lr=1.0, weight_decay=0.5)
    OneCycleLR(optimizer, max_lr=[1.0], total_steps=9)
    spare_from_weight_decay(optimizer, [spared])
    optimizer.step()
    assert spared.tolist() == [1]
    (group,) = optimizer.param_groups
    assert (group["params"], group["weight_decay"]) == ([spared], 0.5)


@pytest.mark.parametrize("keyword", [True, False])
def test_a_closure_sees_the_groups_as_they_were_built(keyword: bool) -> None:
    decayed, spared, optimizer = decayed_and_spared()
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    spare_from_weight_decay(optimizer, [spared])
    spare_from_weight_decay(optimizer, [spared])  # a second time changes nothing

    def closure() -> float:
        (group,) = optimizer.param_groups
        assert group["params"] == [spared, decayed]
        group["weight_decay"] = 0.25
        schedule.step()
        return 3.0

    found = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert found == 3.0
    assert (spared.item(), decayed.item()) == (1.0, 1 - 0.5 * 0.25)
    assert optimizer.param_groups[0]["weight_decay"] == 0.25


class Breaks(SGD):
    """Fails in its update."""

    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [SGD, Breaks])
def test_what_is_saved_after_a_step_that_failed_can_be_loaded(kind: type[SGD]) -> None:
    _, spared, optimizer = decayed_and_spared()
    optimizer = kind(optimizer.param_groups)
    whole = optimizer.state_dict()["param_groups"]
    spare_from_weight_decay(optimizer, [spared])

    def closure() -> float:
        if kind is SGD:
            raise ZeroDivisionError
        return 0.0

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    saved = optimizer.state_dict()
    assert saved["param_groups"] == whole
    decayed_and_spared()[2].load_state_dict(saved)


class Wrapper(Optimizer):
    """As those that keep a second copy of the weights: another optimizer makes the steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.base_optimizer = optimizer
        self.defaults, self.state = optimizer.defaults, optimizer.state
        self.param_groups = optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.base_optimizer.step(closure)


def test_of_a_wrapper_the_optimizer_within_is_told() -> None:
    decayed, spared, optimizer = decayed_and_spared()
    spare_from_weight_decay(Wrapper(optimizer), [spared])
    optimizer.step()
    assert (spared.item(), decayed.item()) == (1.0, 0.5)


def test_an_optimizer_without_hooks_is_warned_of() -> None:
    class Bare(Wrapper):
        def __init__(self, optimizer: Optimizer) -> None:
            super().__init__(optimizer)
            del self.base_optimizer

    _, spared, optimizer = decayed_and_spared()
    with pytest.warns(UserWarning, match="Bare runs no hooks around its step.*parameter_groups"):
        spare_from_weight_decay(Bare(optimizer), [spared])


def test_one_whose_ranks_share_the_state(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        decayed, spared, _ = decayed_and_spared()
        optimizer = ZeroRedundancyOptimizer([spared, decayed], SGD, lr=1.0, weight_decay=0.5)
        spare_from_weight_decay(optimizer, [spared])
        for _ in range(2):
            optimizer.step()
        assert (spared.item(), decayed.item()) == (1.0, 0.25)
        assert len(optimizer.param_groups) == 1
    finally:
        torch.distributed.destroy_process_group()
