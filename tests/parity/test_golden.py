"""Against the released code: its profiling run on fixed weights and inputs, dropout 0."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers import ROOT
from _helpers.differences import omegas_apart, outputs_apart
from _helpers.named_in_torch import sites_by_name
from safetensors.torch import load_file
from torch import Tensor, nn

import admin_init

DATA = ROOT / "tests" / "data" / "transformer_clinic"


class Golden(nn.Module):
    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__()
        options = {
            "d_model": config["embed_dim"],
            "nhead": config["heads"],
            "dim_feedforward": config["ffn_dim"],
            "activation": config["activation"],
            "layer_norm_eps": config["layer_norm_eps"],
            "batch_first": config["batch_first"],
            "dropout": 0.0,
        }
        encoder_layer = nn.TransformerEncoderLayer(**options)
        self.encoder = nn.TransformerEncoder(encoder_layer, config["encoder_layers"])
        decoder_layer = nn.TransformerDecoderLayer(**options)
        self.decoder = nn.TransformerDecoder(decoder_layer, config["decoder_layers"])
        self.load_state_dict({key: value for key, value in weights.items() if ".layers." in key})

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(source, src_key_padding_mask=padding)
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return memory, self.decoder(
            target, memory, tgt_mask=causal, tgt_is_causal=True, memory_key_padding_mask=padding
        )


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(DATA / "weights_and_io.safetensors")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((DATA / "profile.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def model(golden: dict[str, Any], tensors: dict[str, Tensor]) -> Golden:
    return Golden(golden, tensors)


@pytest.fixture
def batch(tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
    keys = ("src_embedded", "tgt_embedded", "src_padding_mask")
    return tuple(tensors[f"input.{key}"] for key in keys)


def omegas(profile: admin_init.AdminProfile) -> dict[str, list[float]]:
    return {
        stack: [site.omega for site in profile.sites if site.stack == stack]
        for stack in ("encoder", "decoder")
    }


ROWS = {"encoder": "torch.nn, encoder", "decoder": "torch.nn, encoder-decoder"}
"""Of the table in docs/support.md, by the stack that runs last."""

RELEASED = "{} (released code)"


@pytest.mark.support
def test_omegas(
    model: Golden,
    batch: tuple[Tensor, ...],
    golden: dict[str, Any],
    cells: Callable[..., None],
) -> None:
    profile = admin_init.profile(model, [batch])
    measured = omegas(profile)
    assert measured.keys() == golden["omega"].keys()
    for stack, expected in golden["omega"].items():
        assert measured[stack] == pytest.approx(expected, rel=1e-5)
    apart = omegas_apart(profile, golden["omega"]["encoder"] + golden["omega"]["decoder"])
    for row in ROWS.values():
        cells("Models", row, profile=RELEASED.format(apart))
    cells("Models", ROWS["encoder"], generate="-")


@pytest.mark.support
@pytest.mark.parametrize("mode", ["train", "eval", "inference", "folded"])
def test_outputs(
    model: Golden,
    batch: tuple[Tensor, ...],
    tensors: dict[str, Tensor],
    mode: str,
    cells: Callable[..., None],
) -> None:
    admin_init.apply_(model, admin_init.profile(model, [batch]))
    if mode == "folded":
        admin_init.fold_(model)
    model.train(mode in ("train", "folded"))
    with torch.inference_mode(mode == "inference"):
        memory, output = model(*batch)
    torch.testing.assert_close(memory, tensors["output.encoder"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output, tensors["output.decoder"], rtol=1e-5, atol=1e-5)
    column = "fold" if mode == "folded" else "rescale"
    for stack, found in (("encoder", memory), ("decoder", output)):
        apart = outputs_apart(found, tensors[f"output.{stack}"])
        cells("Models", ROWS[stack], **{column: RELEASED.format(apart)})


def test_outputs_without_omegas_are_others(
    model: Golden, batch: tuple[Tensor, ...], tensors: dict[str, Tensor]
) -> None:
    memory, output = model(*batch)
    assert (memory - tensors["output.encoder"]).abs().max() > 0.1
    assert (output - tensors["output.decoder"]).abs().max() > 0.1


@pytest.mark.support
def test_the_branch_form_by_name(
    model: Golden,
    batch: tuple[Tensor, ...],
    golden: dict[str, Any],
    tensors: dict[str, Tensor],
    cells: Callable[..., None],
) -> None:
    sites = sites_by_name(model)
    profile = admin_init.profile(model, [batch], sites=sites)
    row = "torch.nn, sites named"
    for stack, expected in golden["omega"].items():
        assert omegas(profile)[stack] == pytest.approx(expected, rel=1e-4)
    apart = omegas_apart(profile, golden["omega"]["encoder"] + golden["omega"]["decoder"])
    cells("Models", row, profile=RELEASED.format(apart))
    admin_init.apply_(model, profile, sites=sites)
    for column in ("rescale", "fold"):
        memory, output = model(*batch)
        torch.testing.assert_close(memory, tensors["output.encoder"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output, tensors["output.decoder"], rtol=1e-4, atol=1e-4)
        apart = outputs_apart(output, tensors["output.decoder"])
        cells("Models", row, **{column: RELEASED.format(apart)})
        admin_init.fold_(model, sites=sites)
