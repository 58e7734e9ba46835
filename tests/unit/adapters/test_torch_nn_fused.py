"""The fused kernels of inference, which know no omega."""

from typing import Any

import pytest
import torch
from _helpers.perturb import train_omegas_
from _helpers.torch_encoder import PADDING, D, encoder
from torch import Tensor, nn

import admin_init
from admin_init.adapters.discovery import find_sites


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "padding": {"src_key_padding_mask": PADDING},
    "padding inside": {"src_key_padding_mask": PADDING.flip(1)},
    "float padding": {"src_key_padding_mask": torch.zeros(3, 5).masked_fill(PADDING, -torch.inf)},
    "causal": {
        "mask": nn.Transformer.generate_square_subsequent_mask(5),
        "is_causal": True,
    },
    "both": {"mask": torch.ones(5, 5).triu(1).bool(), "src_key_padding_mask": PADDING},
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_eval_equals_train(x: Tensor, fused: list[str], mask: str, frozen: bool) -> None:
    model = train_omegas_(encoder()).requires_grad_(not frozen)
    expected = model.train()(x, **MASKS[mask])
    model.eval()
    torch.testing.assert_close(model(x, **MASKS[mask]), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(x, **MASKS[mask]), expected)
    with torch.inference_mode():
        torch.testing.assert_close(model(x, **MASKS[mask]), expected)
    assert fused == []


@pytest.mark.parametrize(
    ("mask", "kernels"),
    [
        ("none", {"_transformer_encoder_layer_fwd"}),
        ("padding", {"_transformer_encoder_layer_fwd", "_nested_tensor_from_mask"}),
    ],
)
def test_the_fused_kernels_would_have_given_something_else(
    x: Tensor, fused: list[str], mask: str, kernels: set[str]
) -> None:
    model = train_omegas_(encoder()).eval()
    with torch.no_grad():
        rescaled = model(x, **MASKS[mask])
        for module in (model, *model.layers):  # type: ignore[misc]
            module.__class__ = module.plain_class
        plain = model(x, **MASKS[mask])
    assert set(fused) == kernels
    assert (rescaled - plain)[~PADDING].abs().max() > 0.5


@pytest.mark.parametrize("take_out", ["fold", "uninstall", "profile"])
def test_without_omegas_the_fused_kernels_are_back(
    x: Tensor, fused: list[str], take_out: str
) -> None:
    model = encoder()
    if take_out == "profile":
        admin_init.profile(model, [x])
    else:
        train_omegas_(model)
        if take_out == "fold":
            admin_init.fold_(model.train())
        else:
            for site in find_sites(model):
                site.uninstall_()
    model.eval()
    assert [type(module) for module in model.modules()] == [
        type(module) for module in encoder().modules()
    ]
    with torch.no_grad():
        model(x, **MASKS["padding"])
    assert set(fused) == {"_transformer_encoder_layer_fwd", "_nested_tensor_from_mask"}


@pytest.mark.parametrize("wrap", [True, False])
def test_one_rescaled_layer_keeps_the_encoder_from_nested_tensors(
    x: Tensor, fused: list[str], wrap: bool
) -> None:
    class Wrapper(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, *args: Any, **options: Any) -> Any:
            return self.inner(*args, **options)

    model = encoder()
    if wrap:
        model.layers[1] = Wrapper(model.layers[1])
    some = find_sites(model)[2:]
    admin_init.install_(model, sites=some)
    expected = model(x, **MASKS["padding"])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model(x, **MASKS["padding"])[~PADDING], expected[~PADDING], atol=1e-5, rtol=1e-5
        )
    assert "_nested_tensor_from_mask" not in fused
    for site in some:
        site.uninstall_()
    assert type(model) is nn.TransformerEncoder


def test_a_fused_kernel_is_not_taken_by_a_bare_layer(x: Tensor, fused: list[str]) -> None:
    model = train_omegas_(encoder().layers[0])
    expected = model(x)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    assert fused == []
