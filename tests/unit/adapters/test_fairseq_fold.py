"""Folding omegas into fairseq's layers, and what keeps them from it."""

import copy
from typing import Any

import pytest
import torch
from _helpers.perturb import perturb_, train_omegas_
from _helpers.small_fairseq import Batch, D, language_model, logits, make_batch, transformer
from torch import nn

import admin_init
from admin_init import find_sites


@pytest.fixture
def batch() -> Batch:
    return make_batch()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale_attn": True, "scale_fc": True, "scale_heads": True, "scale_resids": True},
        {"encoder_embed_dim": 2 * D},
        {"checkpoint_activations": True},
        {"no_cross_attention": True},
    ],
)
def test_fold(changes: dict[str, Any], batch: Batch) -> None:
    model = train_omegas_(perturb_(transformer(**changes)))
    for layer in model.decoder.layers:
        assert (layer.w_resid is not None) == (layer.c_attn is not None) == ("scale_fc" in changes)
        for name in ("w_resid", "c_attn"):
            if getattr(layer, name) is not None:
                nn.init.uniform_(getattr(layer, name), 0.5, 2.0)
    expected = logits(model, batch)
    admin_init.fold_(model)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)

    plain = transformer(**changes)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(plain, batch), expected, atol=1e-5, rtol=1e-5)
    first = plain.encoder.layers[0]
    assert torch.equal(first.fc1_weight, first.fc1.weight)


def test_fold_a_language_model(batch: Batch) -> None:
    model = train_omegas_(perturb_(language_model(scale_attn=True, scale_resids=True)))
    assert model.decoder.layers[0].attn_ln is not None
    expected = logits(model, batch)
    assert (expected - logits(language_model(), batch)).abs().max() > 0.1
    torch.testing.assert_close(
        logits(admin_init.fold_(model), batch), expected, atol=1e-5, rtol=1e-5
    )


def test_fold_the_first_omega_of_a_stack(batch: Batch) -> None:
    model = train_omegas_(perturb_(transformer()))
    for site in find_sites(model):
        if site.previous is None and site.omega is not None:
            site.omega.data.fill_(2.0)
    expected = logits(model, batch)
    torch.testing.assert_close(
        logits(admin_init.fold_(model), batch), expected, atol=1e-5, rtol=1e-5
    )


def refused(model: nn.Module, message: str) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(admin_init.FoldError, match=message):
        admin_init.fold_(model)
    for key, value in model.state_dict().items():
        # fairseq never writes its `_float_tensor`, which may hold NaN.
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)


def test_fold_refuses_keys_that_come_from_the_encoder_too() -> None:
    model = train_omegas_(perturb_(transformer(cross_self_attention=True, no_cross_attention=True)))
    refused(model, r"values of `decoder.layers.1.self_attn` come from the encoder too")


def test_fold_refuses_layers_that_may_be_dropped(batch: Batch) -> None:
    model = train_omegas_(perturb_(transformer(decoder_layerdrop=0.2)))
    refused(model, r"before `decoder.layers.1.self_attn` may be dropped \(LayerDrop, p = 0.2\)")
    expected = logits(model.eval(), batch)
    model.decoder.layers.p = 0.0
    torch.testing.assert_close(
        logits(admin_init.fold_(model), batch), expected, atol=1e-5, rtol=1e-5
    )


def test_fold_refuses_something_between_the_layers() -> None:
    model = train_omegas_(perturb_(transformer()))
    model.encoder.layers.insert(1, nn.Tanh())
    refused(model, "a Tanh stands between the layers around `encoder.layers.2.self_attn`")


def test_fold_refuses_a_norm_at_the_end_of_the_first_branch() -> None:
    model = train_omegas_(perturb_(transformer(scale_attn=True)))
    find_sites(model)[4].omega.data.fill_(2.0)  # type: ignore[union-attr]
    refused(model, r"`decoder.layers.0.self_attn` ends in a layer norm \(scale_attn\)")


@pytest.mark.parametrize("name", ["fc1", "self_attn.q_proj", "self_attn"])
def test_fold_refuses_what_computes_more_than_it_shows(name: str) -> None:
    model = train_omegas_(perturb_(transformer()))
    module = model.encoder.layers[1].get_submodule(name)

    class Adapted(type(module)):  # type: ignore[misc]
        def forward(self, *args: Any, **options: Any) -> Any:
            return super().forward(*args, **options)

    module.__class__ = Adapted
    refused(model, rf"`{name}` in the layer of `encoder.layers.1.\w+` is a Adapted")
