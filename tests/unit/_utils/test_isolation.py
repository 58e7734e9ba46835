import random
from collections import Counter, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from admin_init._utils.isolation import preserved


class Hoarder(nn.Module):
    """Changes all that a forward pass may change."""

    decayed: Tensor
    steps: Tensor
    accuracy: torchmetrics.Metric

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Dropout().eval()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.register_buffer("decayed", torch.zeros(2))
        self.register_buffer("steps", torch.zeros(()), persistent=False)
        self.register_buffer("ones", torch.ones(1).expand(4))
        self.plain = torch.zeros(3)
        self.calls = 0
        self._calls = 0
        self.outputs: list[Any] = ["kept"]
        self._nested: dict[str, Any] = defaultdict(list, train=[1], states=[torch.zeros(2)])
        self.last: deque[int] = deque([1, 2], maxlen=2)
        self.seen = {1}
        self.counts = Counter("ab")
        self.generator = torch.Generator().manual_seed(3)
        self.numpy = np.random.default_rng(3)
        self.python = random.Random(3)
        self.cycle: list[Any] = []
        self.cycle.append(self.cycle)

    def forward(self, x: Tensor) -> Tensor:
        self.train(not self.training)
        self.frozen.train()
        x = self.norm(x)
        self.accuracy(x, torch.tensor([0, 1, 2, 0]))
        self.decayed = self.decayed * 0.9 + 1
        self.steps.add_(1)
        self.plain += 1
        self.calls += 1
        self._calls += 1
        self.outputs.append(x)
        self._nested["train"].append(2)
        self._nested["states"][0].add_(1)
        self._nested["new"].append(3)
        self.last.append(3)
        self.seen.add(2)
        self.counts.update("abc")
        self.register_buffer("mask", torch.ones(2))
        self.cache = x
        self._cached = x
        torch.rand(1, generator=self.generator)
        self.numpy.random()
        self.python.random()
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        random.random()
        return x


def everything(model: Hoarder) -> dict[str, Any]:
    return {
        "keys": [sorted(vars(module)) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "state": {k: v.tolist() for k, v in model.state_dict().items()},
        "steps": model.steps.item(),
        "plain": model.plain.tolist(),
        "calls": (model.calls, model._calls),
        "outputs": list(model.outputs),
        "nested": str(model._nested),
        "last": list(model.last),
        "seen": set(model.seen),
        "counts": dict(model.counts),
        "metric": (model.accuracy.update_count, str(model.accuracy.metric_state)),
        "generators": (
            model.generator.get_state().tolist(),
            model.numpy.bit_generator.state,
            model.python.getstate(),
        ),
        "random": (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
            random.getstate(),
        ),
    }


@pytest.fixture
def model() -> Hoarder:
    model = Hoarder()
    model.accuracy.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    return model


def test_everything_but_the_parameters_is_put_back(model: Hoarder) -> None:
    x = torch.randn(4, 3)
    before = everything(model)
    objects = {name: id(value) for name, value in model.named_buffers()}
    with preserved(model):
        model(x)
        changed = everything(model)
    assert everything(model) == before
    assert {name: id(value) for name, value in model.named_buffers()} == objects
    # All of it had been changed, so that nothing was compared in vain.
    assert [key for key in before if before[key] == changed[key]] == []


def test_it_is_put_back_after_an_exception(model: Hoarder) -> None:
    def fail() -> None:
        with preserved(model):
            model(torch.randn(4, 3))
            raise KeyError("stop")

    before = everything(model)
    with pytest.raises(KeyError, match="stop"):
        fail()
    assert everything(model) == before


def test_metrics_go_on_counting_from_where_they_were(model: Hoarder) -> None:
    expected = model.accuracy.compute()
    with preserved(model):
        model(torch.randn(4, 3))
    assert model.accuracy.compute() == expected


def test_parameters_are_not_copied() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad(), preserved(model):
        model.weight.add_(1.0)
        changed = model.weight.clone()
    assert torch.equal(model.weight, changed)


def test_a_read_only_container_is_left_alone() -> None:
    class Frozen(dict[str, int]):
        def clear(self) -> None:
            raise TypeError("read-only")

    model = nn.Linear(2, 2)
    model.config = Frozen(a=1)  # type: ignore[assignment]
    with preserved(model):
        model(torch.ones(2))
    assert dict(vars(model)["config"]) == {"a": 1}
