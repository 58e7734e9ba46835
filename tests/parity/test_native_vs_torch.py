"""Our encoder and decoder against torch.nn's, and against the released code of Admin."""

import json
from typing import Any

import pytest
import torch
from _helpers import ROOT
from _helpers.perturb import perturb_
from _helpers.torch_weights import from_torch
from safetensors.torch import load_file
from torch import Tensor, nn

from admin_init.nn import TransformerConfig
from admin_init.nn.stacks import TransformerDecoder, TransformerEncoder
from admin_init.scaled_skip import ScaledSkip

GOLDEN = ROOT / "tests" / "data" / "transformer_clinic"


def config(**options: Any) -> TransformerConfig:
    defaults = {
        "vocabulary_size": 10,
        "dim": 32,
        "ffn_dim": 48,
        "heads": 4,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "dropout": 0.0,
    }
    return TransformerConfig(**defaults | options)


@pytest.fixture
def batch() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x, memory, gradient = torch.randn(3, 4, 7, 32).unbind()
    padding = torch.zeros(4, 7, dtype=torch.bool)
    padding[1, 4:] = padding[2, :2] = True
    return x, memory, gradient, padding


def compare_gradients(ours: nn.Module, theirs: nn.Module, decoder: bool) -> None:
    gradients = from_torch({n: p.grad for n, p in theirs.named_parameters()}, decoder)
    assert gradients.keys() == {n for n, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_encoder_equals_torch(batch: tuple[Tensor, ...], norm_first: bool, padded: bool) -> None:
    x, _, gradient, padding = batch
    layer = nn.TransformerEncoderLayer(
        32, 4, 48, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    norm = nn.LayerNorm(32) if norm_first else None
    theirs = nn.TransformerEncoder(layer, 3, norm, enable_nested_tensor=False)
    perturb_(theirs)
    ours = TransformerEncoder(config(residual="pre" if norm_first else "post"))
    ours.load_state_dict(from_torch(theirs.state_dict(), decoder=False))

    x_ours, x_theirs = (x.clone().requires_grad_() for _ in range(2))
    out_ours = ours(x_ours, padding if padded else None)
    out_theirs = theirs(x_theirs, src_key_padding_mask=padding if padded else None)
    torch.testing.assert_close(out_ours, out_theirs, atol=1e-5, rtol=1e-5)

    gradient = gradient.masked_fill(padding[..., None], 0)
    out_ours.backward(gradient)
    out_theirs.backward(gradient)
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, atol=1e-5, rtol=1e-5)
    compare_gradients(ours, theirs, decoder=False)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_decoder_equals_torch(batch: tuple[Tensor, ...], norm_first: bool, padded: bool) -> None:
    x, memory, gradient, memory_padding = batch
    padding = memory_padding.flip(0)
    layer = nn.TransformerDecoderLayer(
        32, 4, 48, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    theirs = nn.TransformerDecoder(layer, 3, nn.LayerNorm(32) if norm_first else None)
    perturb_(theirs)
    ours = TransformerDecoder(config(residual="pre" if norm_first else "post"))
    ours.load_state_dict(from_torch(theirs.state_dict(), decoder=True))

    inputs = [(x.clone().requires_grad_(), memory.clone().requires_grad_()) for _ in range(2)]
    out_ours = ours(*inputs[0], *((memory_padding, padding) if padded else ()))
    # Row 1 of the flipped mask begins with padding, where torch's softmax would have nothing left:
    # the mask below, like ours, leaves each position itself.
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    if padded:
        hidden = hidden | (padding[:, None] & ~torch.eye(7, dtype=torch.bool))
        hidden = hidden.repeat_interleave(4, dim=0)
    out_theirs = theirs(
        *inputs[1],
        tgt_mask=hidden,
        memory_key_padding_mask=memory_padding if padded else None,
    )
    torch.testing.assert_close(out_ours, out_theirs, atol=1e-5, rtol=1e-5)

    gradient = gradient.masked_fill(padding[..., None], 0)
    out_ours.backward(gradient)
    out_theirs.backward(gradient)
    for ours_in, theirs_in in zip(*inputs, strict=True):
        torch.testing.assert_close(ours_in.grad, theirs_in.grad, atol=1e-5, rtol=1e-5)
    compare_gradients(ours, theirs, decoder=True)


def test_stacks_equal_the_released_code() -> None:
    """Source: Transformer-Clinic at commit 70f72b7, see tests/data/transformer_clinic."""
    tensors = load_file(GOLDEN / "weights_and_io.safetensors")
    profile = json.loads((GOLDEN / "profile.json").read_text())
    golden = config(
        residual="admin",
        dim=profile["embed_dim"],
        ffn_dim=profile["ffn_dim"],
        heads=profile["heads"],
        encoder_layers=profile["encoder_layers"],
        decoder_layers=profile["decoder_layers"],
    )
    stacks = {"encoder": TransformerEncoder(golden), "decoder": TransformerDecoder(golden)}
    for name, stack in stacks.items():
        weights = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if name in k[:7]}
        with pytest.warns(UserWarning, match="no omega"):
            stack.load_state_dict(from_torch(weights, decoder=name == "decoder"))
        skips = [module for module in stack.modules() if isinstance(module, ScaledSkip)]
        for skip, omega in zip(skips, profile["omega"][name], strict=True):
            nn.init.constant_(skip.omega, omega)

    padding = tensors["input.src_padding_mask"]
    encoded = stacks["encoder"](tensors["input.src_embedded"], padding)
    decoded = stacks["decoder"](tensors["input.tgt_embedded"], encoded, padding)
    torch.testing.assert_close(encoded, tensors["output.encoder"], atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded, tensors["output.decoder"], atol=1e-5, rtol=0)
