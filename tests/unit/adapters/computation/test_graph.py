"""What a forward pass computes, as a graph."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from admin_init.adapters.computation.graph import ForwardGraph, Value, descends


def recorded(model: nn.Module, *args: Any) -> ForwardGraph:
    graph = ForwardGraph(model)
    with torch.no_grad(), graph:
        model(*args)
    return graph


def last(graph: ForwardGraph, op: str) -> Value:
    return [value for value in graph.values if value.op == op][-1]


def test_an_operation_in_place_makes_a_new_value_which_views_read() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            view = x.view(-1)
            x.add_(1)
            return view.exp()

    graph = recorded(Module(), torch.ones(2, 3))
    assert descends(last(graph, "exp"), last(graph, "add"))
    assert descends(last(graph, "add"), last(graph, "mul"))
    assert not descends(last(graph, "mul"), last(graph, "add"))


def test_what_writes_a_part_does_not_replace_the_rest() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            x[:, 0] = x[:, 1].exp()
            return x.tanh()

    graph = recorded(Module(), torch.ones(2, 3))
    for op in ("mul", "exp"):
        assert descends(last(graph, "tanh"), last(graph, op)), op


def test_the_shape_of_a_tensor_is_no_input() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x.exp()).sin()

    graph = recorded(Module(), torch.ones(2))
    assert not descends(last(graph, "sin"), last(graph, "exp"))


def test_outputs_are_those_of_the_modules_that_return_them() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"none": None, "pair": (x.sin(), x.cos())}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)["pair"][1]
            return y

    graph = recorded(model := Outer(), torch.ones(2))
    outputs = last(graph, "cos").outputs
    assert [output.call.module for output in outputs] == [model.inner, model]
    assert [output.leaf for output in outputs] == [2, 0]
    inner, outer = (output.call for output in outputs)
    assert outer.start <= inner.start < inner.stop <= outer.stop


def test_no_tensor_is_kept_alive() -> None:
    kept: list[Any] = []

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.exp()
            kept.append(weakref.ref(y))
            y = y.sin()
            kept.append(kept[0]())
            return y

    recorded(Module(), torch.ones(2))
    assert kept == [kept[0], None]


def test_a_backward_pass_is_left_out() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            (gradient,) = torch.autograd.grad(x.exp().sum(), x)
            return gradient.tanh()

    graph = ForwardGraph(model := Module())
    with graph:
        model(torch.ones(2, requires_grad=True))
    assert not any(value.op == "mul" for value in graph.values)
    assert last(graph, "tanh").inputs[0].op == ""


def test_hooks_are_removed_after_an_exception() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no forward")

    model = Module()
    with pytest.raises(RuntimeError, match="no forward"):
        recorded(model, torch.ones(2))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
