"""Norms written as formulas, told by what they compute."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.adapters.computation.graph import ForwardGraph
from admin_init.adapters.computation.norm_formulas import formula_output
from admin_init.adapters.computation.paths import readers

Formula = Callable[[Tensor], Tensor]


def output(formula: Formula) -> bool:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return formula(x).exp()

    graph = ForwardGraph(model := Module())
    x = torch.randn(2, 3, 8)
    with torch.no_grad(), graph:
        model(x)
        value = graph.value_of(x)
    found = formula_output(value, list(readers(value)))
    return found is not None and any(reader.op == "exp" for reader in readers(found))


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: F.rms_norm(x, (8,)),
        lambda x: F.normalize(x, dim=-1),
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6),
        lambda x: x * x.square().mean(-1).add(1e-6).rsqrt().unsqueeze(-1),
        lambda x: x.double().div(x.double().pow(2).mean(-1, keepdim=True) ** 0.5).float(),
    ],
)
def test_norms(norm: Formula) -> None:
    assert output(norm)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x,
        lambda x: x * x.square().mean(-1, keepdim=True).sqrt(),  # grows with x
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: x / x.std(0, keepdim=True),  # over the batch
        lambda x: x / (x.std(-1, keepdim=True) + 1),
        lambda x: x / x.norm(dim=-1, keepdim=True) + x,  # read elsewhere
        lambda x: x.softmax(-1),
        lambda x: x.sign(),
    ],
)
def test_other_formulas(other: Formula) -> None:
    assert not output(other)
