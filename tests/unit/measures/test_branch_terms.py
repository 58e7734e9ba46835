"""Terms of residual sums, their shares, and layer dependency in any style."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import admin_init
from admin_init.measures import Term, branch_share, branch_terms, layer_dependency
from admin_init.measures.dependency import profile_dependency
from admin_init.nn import RESIDUAL_STYLES, LanguageModel, Transformer, TransformerConfig


def transformer(residual: str, layers: int = 2) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(
            vocabulary_size=40,
            dim=16,
            ffn_dim=32,
            heads=2,
            encoder_layers=layers,
            decoder_layers=layers,
            dropout=0.0,
            residual=residual,
        )
    )


def tokens(seed: int) -> Tensor:
    return torch.randint(4, 40, (3, 7), generator=torch.Generator().manual_seed(seed))


def test_terms_of_a_post_ln_layer_by_hand() -> None:
    model = transformer("post")
    source = tokens(0)
    terms = branch_terms(model, lambda: model.encode(source))["encoder"]
    with torch.no_grad():
        x = model.encoder_embedding(source)
        layer = model.encoder.layers[0]
        f = layer.self_attn(x)
        y = layer.self_attn_residual.norm(x + f)
        g = layer.ffn(y)
    expected = [
        ("encoder.layers.0.self_attn", x.var(correction=0).item(), f.var(correction=0).item()),
        ("encoder.layers.0.ffn", y.var(correction=0).item(), g.var(correction=0).item()),
    ]
    for term, values in zip(terms, expected, strict=False):
        assert term.name == values[0]
        assert term[1:] == pytest.approx(values[1:], rel=1e-5)


@pytest.mark.parametrize("residual", sorted(RESIDUAL_STYLES))
def test_every_style_shows_every_sublayer_in_order(residual: str) -> None:
    model = transformer(residual)
    terms = branch_terms(model, lambda: model(tokens(0), tokens(1)))
    assert [term.name for term in terms["encoder"]] == [
        f"encoder.layers.{i}.{place}" for i in range(2) for place in ("self_attn", "ffn")
    ]
    assert [term.name for term in terms["decoder"]] == [
        f"decoder.layers.{i}.{place}"
        for i in range(2)
        for place in ("self_attn", "cross_attn", "ffn")
    ]
    for chain in terms.values():
        np.testing.assert_allclose((layer_dependency(chain) ** 2).sum(1), 1)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_terms_of_an_admin_model_are_those_of_its_profile() -> None:
    model = transformer("admin", layers=4)
    batch = tokens(0), tokens(1)
    profile = admin_init.profile(model, [batch])
    admin_init.apply_(model, profile)
    terms = branch_terms(model, lambda: model(*batch))
    for stack, chain in terms.items():
        sites = [site for site in profile.sites if site.stack == stack]
        measured = [(t.name, t.shortcut_variance, t.branch_variance) for t in chain]
        for row, site in zip(measured, sites, strict=True):
            assert row[0] == site.name
            assert row[1] == pytest.approx(site.omega**2 * site.shortcut_variance, rel=1e-4)
            assert row[2] == pytest.approx(site.variance, rel=1e-4)
        of_profile = profile_dependency(profile, stack)
        np.testing.assert_allclose(layer_dependency(chain), of_profile, rtol=1e-4)


def test_the_scale_of_the_shortcut_belongs_to_it() -> None:
    model = transformer("admin", layers=1)
    skip = model.encoder.layers[0].self_attn_residual.skip
    plain = branch_terms(model, lambda: model.encode(tokens(0)))["encoder"][0]
    with torch.no_grad():
        skip.omega.fill_(3.0)
    scaled = branch_terms(model, lambda: model.encode(tokens(0)))["encoder"][0]
    assert scaled.shortcut_variance == pytest.approx(9 * plain.shortcut_variance, rel=1e-5)
    assert scaled.branch_variance == pytest.approx(plain.branch_variance)


def test_a_model_of_torch_can_be_observed_once_admin_is_installed() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 16)
    with pytest.raises(ValueError, match=r"call `admin_init.install_\(model\)`"):
        branch_terms(model, lambda: model(x))
    admin_init.install_(model)
    (chain,) = branch_terms(model, lambda: model(x)).values()
    names = ["layers.0.self_attn", "layers.0.ffn", "layers.1.self_attn", "layers.1.ffn"]
    assert [term.name for term in chain] == names
    assert chain[0].shortcut_variance == pytest.approx(x.var(correction=0).item(), rel=1e-5)


def test_two_models_in_one_keep_their_stacks_apart() -> None:
    config = TransformerConfig(
        vocabulary_size=40, dim=16, ffn_dim=32, heads=2, encoder_layers=0, decoder_layers=1
    )
    pair = nn.ModuleDict({"left": LanguageModel(config), "right": LanguageModel(config)})
    terms = branch_terms(pair, lambda: [pair["left"](tokens(0)), pair["right"](tokens(1))])
    assert list(terms) == ["left.decoder", "right.decoder"]


def test_dependency_of_pre_ln_is_the_share_of_an_unnormalised_sum() -> None:
    # x0 of variance 4, then branches of variance 1, 2, 3 added to the stream one after the other.
    chain = [Term("a", 4.0, 1.0), Term("b", 5.0, 2.0), Term("c", 7.0, 3.0)]
    np.testing.assert_allclose(layer_dependency(chain)[-1] ** 2, np.array([4, 1, 2, 3]) / 10)
    np.testing.assert_allclose(layer_dependency(chain)[0] ** 2, [4 / 5, 1 / 5, 0, 0])


def test_dependency_of_constant_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="sub-layer 2 are both constant"):
        layer_dependency([Term("a", 1.0, 1.0), Term("b", 0.0, 0.0)])


def test_branch_share_by_hand() -> None:
    assert branch_share(Term("a", 9.0, 16.0)) == pytest.approx(4 / 5)
    assert branch_share(Term("a", 1.0, 0.0)) == 0
    assert branch_share(Term("a", 0.0, 1.0)) == 1
    assert math.isnan(branch_share(Term("a", 0.0, 0.0)))


def test_hooks_die_with_a_forward_pass_that_fails() -> None:
    model = transformer("pre")
    with pytest.raises(IndexError):
        branch_terms(model, lambda: model(tokens(0), tokens(1) + 1000))
    assert not any(module._forward_pre_hooks for module in model.modules())
