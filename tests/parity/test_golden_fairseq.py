"""The released code's omegas, through fairseq's layers (Transformer-Clinic at commit 70f72b7)."""

import copy
import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers import ROOT
from _helpers.differences import omegas_apart, outputs_apart
from safetensors.torch import load_file
from torch import Tensor, nn

import admin_init
import admin_init.fairseq

from fairseq.models.transformer import TransformerConfig  # isort: skip
from fairseq.modules import transformer_layer  # isort: skip

DATA = ROOT / "tests" / "data" / "transformer_clinic"
ROW, RELEASED = "fairseq Transformer", "{} (released code)"
NAMES = {
    "linear": "fc",
    "multihead_attn": "encoder_attn",
    "norm1": "self_attn_layer_norm",
    "encoder norm2": "final_layer_norm",
    "decoder norm2": "encoder_attn_layer_norm",
    "norm3": "final_layer_norm",
}


class Golden(nn.Module):
    """Stacks of fairseq's layers, on embedded inputs."""

    def __init__(self, golden: dict[str, Any], **options: Any) -> None:
        super().__init__()
        shape = {
            f"{stack}_{fairseq_name}": golden[name]
            for stack in ("encoder", "decoder")
            for fairseq_name, name in {
                "embed_dim": "embed_dim",
                "ffn_embed_dim": "ffn_dim",
                "attention_heads": "heads",
            }.items()
        }
        config = TransformerConfig.from_namespace(Namespace(dropout=0.0, **shape))
        self.encoder, self.decoder = (
            nn.ModuleDict({"layers": nn.ModuleList(kind(config) for _ in range(golden[layers]))})
            for kind, layers in (
                (transformer_layer.TransformerEncoderLayerBase, "encoder_layers"),
                (transformer_layer.TransformerDecoderLayerBase, "decoder_layers"),
            )
        )

    def load(self, weights: dict[str, Tensor]) -> None:
        """Load weights that have the names of torch.nn."""
        renamed: dict[str, Tensor] = {}
        for key, value in weights.items():
            name = key
            for old, new in NAMES.items():
                stack, _, part = old.rpartition(" ")
                if key.startswith(stack):
                    name = name.replace(part, new)
            if "in_proj_" in name:
                parts = {name.replace("in_proj_", f"{x}_proj."): x for x in "qkv"}
                renamed |= dict(zip(parts, value.chunk(3), strict=True))
            else:
                renamed[name] = value
        self.load_state_dict(renamed, strict=True)

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        memory, x = source.transpose(0, 1), target.transpose(0, 1)
        for layer in self.encoder["layers"]:
            memory = layer(memory, padding)
        future = torch.full((len(x), len(x)), -torch.inf).triu(1)
        for layer in self.decoder["layers"]:
            x = layer(x, memory, padding, self_attn_mask=future)[0]
        return memory.transpose(0, 1), x.transpose(0, 1)


@pytest.mark.support
def test_the_released_omegas_and_outputs(cells: Callable[..., None]) -> None:
    tensors = load_file(DATA / "weights_and_io.safetensors")
    golden = json.loads((DATA / "profile.json").read_text())
    model = Golden(golden)
    model.load({key: value for key, value in tensors.items() if ".layers." in key})
    assert model.encoder["layers"][0].self_attn_layer_norm.eps == golden["layer_norm_eps"]
    keys = ("src_embedded", "tgt_embedded", "src_padding_mask")
    batch = tuple(tensors[f"input.{key}"] for key in keys)
    profile = admin_init.profile(model, [batch])
    for stack, expected in golden["omega"].items():
        omegas = [site.omega for site in profile.sites if site.stack == stack]
        assert omegas == pytest.approx(expected, rel=1e-5)
    expected = golden["omega"]["encoder"] + golden["omega"]["decoder"]
    cells("Models", ROW, profile=RELEASED.format(omegas_apart(profile, expected)))

    plain = model(*batch)
    assert (plain[0] - tensors["output.encoder"]).abs().max() > 0.1
    assert (plain[1] - tensors["output.decoder"]).abs().max() > 0.1
    admin_init.apply_(model, profile)
    folded = admin_init.fold_(copy.deepcopy(model))
    for column, variant in (
        ("rescale", model.train()),
        ("rescale", model.eval()),
        ("fold", folded),
    ):
        memory, output = variant(*batch)
        torch.testing.assert_close(memory, tensors["output.encoder"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output, tensors["output.decoder"], atol=1e-5, rtol=1e-5)
        apart = outputs_apart(output, tensors["output.decoder"])
        cells("Models", ROW, **{column: RELEASED.format(apart)})
