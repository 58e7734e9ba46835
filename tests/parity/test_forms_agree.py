"""The skip form and the branch form are one initialization: LN(w x + f) = LN(x + f / w)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import admin_init
from admin_init.adapters.discovery import find_sites
from admin_init.adapters.patterns import SitePattern, named_sites
from admin_init.sites import ResidualSite

HEADS = 4
PATTERNS = [
    SitePattern(
        branch="layers.*.dropout1", linear="layers.*.self_attn.out_proj", norm="layers.*.norm1"
    ),
    SitePattern(branch="layers.*.dropout2", linear="layers.*.linear2", norm="layers.*.norm2"),
]

models = {
    "layers": st.integers(1, 6),
    "width": st.sampled_from([16, 24, 32, 64]),
    "seed": st.integers(0, 2**16),
}
few = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def build(layers: int, width: int, seed: int) -> tuple[nn.TransformerEncoder, Tensor]:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(width, HEADS, 2 * width, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).double()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return model, torch.randn(2, 5, width, dtype=torch.float64)


def rescaled(
    layers: int, width: int, seed: int, omegas: list[float], branch_form: bool
) -> tuple[nn.TransformerEncoder, Tensor, list[ResidualSite]]:
    model, x = build(layers, width, seed)
    sites = named_sites(model, PATTERNS) if branch_form else find_sites(model)
    admin_init.install_(model, sites=sites)
    for site, omega in zip(sites, omegas, strict=False):
        assert site.omega is not None
        nn.init.constant_(site.omega, omega)
    return model, x, sites


def differentiated(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the outputs, and the gradients of all that both forms have."""
    x = x.requires_grad_()
    y = model(x)
    direction = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    torch.autograd.backward((y * direction).sum())
    found = {"output": y.detach(), "x": x.grad}
    found |= {n: p.grad for n, p in model.named_parameters() if not n.endswith("omega")}
    return {name: value for name, value in found.items() if value is not None}


omegas_ = st.lists(st.floats(0.5, 20), min_size=12, max_size=12)


@few
@given(**models, omegas=omegas_)
def test_outputs_and_gradients(layers: int, width: int, seed: int, omegas: list[float]) -> None:
    skip, x, _ = rescaled(layers, width, seed, omegas, branch_form=False)
    branch, _, sites = rescaled(layers, width, seed, omegas, branch_form=True)
    loose = branch(x).detach()
    for site, omega in zip(sites, omegas, strict=False):
        assert isinstance(site.norm, nn.LayerNorm)
        site.norm.eps /= omega**2
    expected, found = differentiated(skip, x.clone()), differentiated(branch, x.clone())
    assert len(found) == 2 + 12 * layers
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loose, expected["output"], rtol=1e-4, atol=1e-4)


@few
@given(**models)
def test_profiles(layers: int, width: int, seed: int) -> None:
    model, x = build(layers, width, seed)
    skip = admin_init.profile(model, [x])
    branch = admin_init.profile(model, [x], sites=named_sites(model, PATTERNS))
    for one, other in zip(skip.sites, branch.sites, strict=True):
        assert one.omega == pytest.approx(other.omega, rel=1e-4)
        assert one.variance == pytest.approx(other.variance, rel=1e-4)
        assert one.shortcut_variance == pytest.approx(other.shortcut_variance, rel=1e-4)


@few
@given(**models, omegas=omegas_)
def test_folded(layers: int, width: int, seed: int, omegas: list[float]) -> None:
    results: list[Any] = []
    for branch_form in (False, True):
        model, x, sites = rescaled(layers, width, seed, [1.0, *omegas[1:]], branch_form)
        expected = model(x)
        admin_init.fold_(model, sites=sites)
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
        results.append(model(x))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_a_vector_omega_is_another_function_in_each_form() -> None:
    outputs = []
    for branch_form in (False, True):
        model, x, sites = rescaled(2, 16, 0, [], branch_form)
        for site in sites:
            assert site.omega is not None
            site.omega.data.copy_(torch.linspace(0.5, 4, 16))
        outputs.append(model(x))
    assert (outputs[0] - outputs[1]).abs().max() > 0.1
