"""torch.compile and torch.export of a rescaled encoder."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _helpers.perturb import train_omegas_
from _helpers.torch_encoder import PADDING, D, encoder
from torch import Tensor, nn

import admin_init


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


@pytest.fixture
def compiles() -> Iterator[None]:
    """For tests that compile: forgets what was compiled before and within."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("first", ["install", "compile"])
@pytest.mark.usefixtures("compiles")
def test_compile(x: Tensor, first: str) -> None:
    model = encoder()
    profile = admin_init.profile(model, [x])
    if first == "install":
        admin_init.apply_(model, profile)
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    else:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        compiled(x)
        assert admin_init.profile(compiled, [x]).sites[3].omega == profile.sites[3].omega
        admin_init.apply_(compiled, profile)
    torch.testing.assert_close(compiled(x), model(x))
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(x, src_key_padding_mask=PADDING), model(x, src_key_padding_mask=PADDING)
        )
    expected = model(x)
    torch.testing.assert_close(admin_init.fold_(compiled)(x), expected, atol=1e-5, rtol=1e-5)
    assert type(model) is nn.TransformerEncoder


@pytest.mark.usefixtures("compiles")
def test_profiling_compiles_nothing(x: Tensor) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled: Any = torch.compile(encoder(), backend=backend)
    compiled(x)
    assert len(graphs) == 1
    admin_init.profile(compiled, [x])
    assert len(graphs) == 1
    admin_init.install_(compiled)(x)
    assert len(graphs) == 2


@pytest.mark.usefixtures("compiles")
def test_layers_that_are_compiled_one_by_one(x: Tensor, fused: list[str]) -> None:
    model = encoder()
    expected = admin_init.profile(model, [x])
    for i in range(2):
        model.layers[i] = torch.compile(model.layers[i], backend="eager")
    profile = admin_init.profile(model, [x])
    assert [site.omega for site in profile.sites] == [site.omega for site in expected.sites]
    admin_init.apply_(model, profile)
    trained = model(x, src_key_padding_mask=PADDING)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x, src_key_padding_mask=PADDING), trained)
    assert fused == []


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.usefixtures("compiles")
def test_export(x: Tensor, strict: bool) -> None:
    model = train_omegas_(encoder()).eval()
    exported = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(exported.module()(x), model(x))
