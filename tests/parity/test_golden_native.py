"""The released code's omegas, through our own stacks (Transformer-Clinic at commit 70f72b7).

And our profile of our own stacks against our profile of torch.nn's, of the same weights.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers import ROOT
from _helpers.differences import omegas_apart, outputs_apart
from _helpers.perturb import perturb_
from _helpers.torch_weights import from_torch
from safetensors.torch import load_file
from torch import Tensor, nn

import admin_init
from admin_init.nn import TransformerConfig
from admin_init.nn.stacks import TransformerDecoder, TransformerEncoder

DATA = ROOT / "tests" / "data" / "transformer_clinic"
ROW, RELEASED = "admin_init.nn.Transformer", "{} (released code)"


class Native(nn.Module):
    """Our two stacks, on embedded inputs."""

    def __init__(self, residual: str, **shape: Any) -> None:
        super().__init__()
        config = TransformerConfig(vocabulary_size=10, dropout=0.0, residual=residual, **shape)
        self.encoder = TransformerEncoder(config)
        self.decoder = TransformerDecoder(config)

    def load(self, weights: dict[str, Tensor]) -> None:
        for name in ("encoder", "decoder"):
            own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if name in k[:7]}
            renamed = from_torch(own, decoder=name == "decoder")
            stack = self.get_submodule(name)
            ones = {k: v for k, v in stack.state_dict().items() if k.endswith(".omega")}
            stack.load_state_dict(renamed | ones, strict=True)

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(source, padding)
        return memory, self.decoder(target, memory, padding)


def omegas(profile: admin_init.AdminProfile, stack: str) -> list[float]:
    return [site.omega for site in profile.sites if site.stack == stack]


@pytest.mark.support
@pytest.mark.parametrize("residual", ["post", "admin"])
def test_the_released_omegas_and_outputs(residual: str, cells: Callable[..., None]) -> None:
    tensors = load_file(DATA / "weights_and_io.safetensors")
    golden = json.loads((DATA / "profile.json").read_text())
    model = Native(
        residual,
        dim=golden["embed_dim"],
        ffn_dim=golden["ffn_dim"],
        heads=golden["heads"],
        encoder_layers=golden["encoder_layers"],
        decoder_layers=golden["decoder_layers"],
    )
    model.load({key: value for key, value in tensors.items() if ".layers." in key})
    keys = ("src_embedded", "tgt_embedded", "src_padding_mask")
    batch = tuple(tensors[f"input.{key}"] for key in keys)
    profile = admin_init.profile(model, [batch])
    for stack, expected in golden["omega"].items():
        assert omegas(profile, stack) == pytest.approx(expected, rel=1e-5)
    expected = golden["omega"]["encoder"] + golden["omega"]["decoder"]
    cells("Models", ROW, profile=RELEASED.format(omegas_apart(profile, expected)))

    admin_init.apply_(model, profile)
    variants = {"rescale": model, "fold": admin_init.fold_(copy.deepcopy(model))}
    for column, variant in variants.items():
        memory, output = variant(*batch)
        torch.testing.assert_close(memory, tensors["output.encoder"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output, tensors["output.decoder"], atol=1e-5, rtol=1e-5)
        apart = outputs_apart(output, tensors["output.decoder"])
        cells("Models", ROW, **{column: RELEASED.format(apart)})


def test_a_profile_is_that_of_torch_nn() -> None:
    torch.manual_seed(0)
    theirs = nn.Transformer(32, 4, 3, 2, 48, dropout=0.0, batch_first=True)
    theirs.encoder.norm = theirs.decoder.norm = None
    perturb_(theirs)
    ours = Native("post", dim=32, ffn_dim=48, heads=4, encoder_layers=3, decoder_layers=2)
    ours.load(theirs.state_dict())
    source, target = torch.randn(2, 4, 7, 32)
    padding = torch.zeros(4, 7, dtype=torch.bool)
    padding[1, 4:] = padding[2, :2] = True
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    masks = {
        "tgt_mask": causal,
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
    }
    torch_profile = admin_init.profile(
        theirs, [(source, target)], forward=lambda model, batch: model(*batch, **masks)
    )
    our_profile = admin_init.profile(ours, [(source, target, padding)])
    for stack in ("encoder", "decoder"):
        expected = omegas(torch_profile, stack)
        assert len(expected) == 6
        assert expected[-1] > 1.2
        assert omegas(our_profile, stack) == pytest.approx(expected, rel=1e-5)
    for ours_site, theirs_site in zip(our_profile.sites, torch_profile.sites, strict=True):
        assert ours_site.variance == pytest.approx(theirs_site.variance, rel=1e-5)
        assert ours_site.shortcut_variance == pytest.approx(theirs_site.shortcut_variance, rel=1e-5)
