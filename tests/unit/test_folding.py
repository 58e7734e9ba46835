"""A fold that checks itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from admin_init import FoldError, SitePattern, find_sites, install_, named_sites
from admin_init.folding import folded, write_folded
from admin_init.sites import ResidualSite

PATTERNS = [
    SitePattern(
        branch="layers.*.dropout1", linear="layers.*.self_attn.out_proj", norm="layers.*.norm1"
    ),
    SitePattern(branch="layers.*.dropout2", linear="layers.*.linear2", norm="layers.*.norm2"),
]


def encoder(**kwargs: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **kwargs)
    return nn.TransformerEncoder(layer, 3)


def rescaled(form: str = "skip", **kwargs: Any) -> tuple[nn.Module, list[ResidualSite]]:
    """An encoder with trained omegas: they differ between channels, the first ones excepted."""
    model = encoder(**kwargs)
    sites = find_sites(model) if form == "skip" else named_sites(model, PATTERNS)
    install_(model, sites=sites)
    for site in sites[1:]:
        assert site.omega is not None
        nn.init.uniform_(site.omega, 1, 3)
    return model, sites


PROBE = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", ["skip", "branch"])
def test_the_model_is_plain_until_exit(form: str) -> None:
    model, sites = rescaled(form)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model.eval()(PROBE)
    model.train()
    with folded(model, lambda: model(PROBE), sites=sites) as difference:
        assert 0 < difference < 1e-5
        plain = encoder()
        plain.load_state_dict(model.state_dict())
        assert model.training
    torch.testing.assert_close(plain.eval()(PROBE), expected, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == weights.keys()
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    trained = [site.omega is not None and site.omega.requires_grad for site in sites]
    assert trained == [False] + [True] * 5


def test_a_padded_probe() -> None:
    # torch.nn's fused layers, which the plain model takes in eval mode, write zeros there.
    model, _ = rescaled()
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[0, 3:] = True
    with folded(model, lambda: model(PROBE, src_key_padding_mask=padding)) as difference:
        assert difference < 1e-5
    assert torch.backends.mha.get_fastpath_enabled()


def refused(model: nn.Module, run: Callable[[], object], message: str) -> None:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FoldError, match=message), folded(model, run):
        raise AssertionError("it was folded")
    assert model.state_dict().keys() == weights.keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_an_omega_that_cannot_be_folded(value: float) -> None:
    model, sites = rescaled()
    assert sites[3].omega is not None
    sites[3].omega.data[2] = value
    refused(model, lambda: model(PROBE), "zero or not finite")


def test_what_reads_the_states_in_between_is_noticed() -> None:
    model, _ = rescaled()
    layers: Any = model.get_submodule("layers")

    def states() -> list[Tensor]:
        found = [layers[0](PROBE)]
        found += [layers[1](found[-1])]
        return [*found, layers[2](found[-1])]

    refused(model, states, "would change the outputs by")


def test_weights_that_are_not_finite_are_noticed() -> None:
    model, _ = rescaled()
    nn.init.constant_(model.get_parameter("layers.1.linear2.bias"), float("nan"))
    refused(model, lambda: model(PROBE), "would change the outputs by nan")
    model, _ = rescaled()
    refused(model, lambda: (model(PROBE), torch.tensor(float("nan"))), "by nan")


def test_a_probe_that_runs_nothing_is_refused() -> None:
    model, _ = rescaled()
    refused(model, lambda: None, "ran no stack of the model")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_tolerance_is_that_of_the_type(dtype: torch.dtype) -> None:
    model = rescaled()[0].to(dtype)
    with folded(model, lambda: model(PROBE.to(dtype))) as difference:
        assert difference < (0.0625 if dtype is torch.bfloat16 else 1e-12)
        assert (difference > 1e-4) == (dtype is torch.bfloat16)


@pytest.mark.parametrize("name", ["folded.ckpt", "folded.safetensors"])
def test_what_is_written(name: str) -> None:
    model, _ = rescaled()
    training = {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}, "loops": {}}
    checkpoint = {"state_dict": model.state_dict(), "epoch": 3, "words": ["a"], **training}
    difference = write_folded(model, checkpoint, f"new/{name}", lambda: model(PROBE))
    assert difference < 1e-5
    assert [path.name for path in Path("new").iterdir()] == [name]
    plain = encoder()
    if name.endswith(".ckpt"):
        written = torch.load(f"new/{name}", weights_only=True)
        assert written.keys() == {"state_dict", "epoch", "words"}
        plain.load_state_dict(written["state_dict"])
    else:
        load_model(plain, f"new/{name}")
    torch.testing.assert_close(plain.eval()(PROBE), model.eval()(PROBE), rtol=0, atol=1e-5)


def test_nothing_is_written_where_the_fold_is_refused() -> None:
    model, _ = rescaled()
    nn.init.constant_(model.get_parameter("layers.1.linear2.bias"), float("nan"))
    with pytest.raises(FoldError):
        write_folded(model, {"state_dict": {}}, "folded.ckpt", lambda: model(PROBE))
    assert not list(Path().iterdir())
