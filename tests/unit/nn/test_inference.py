import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from admin_init.nn import (
    Transformer,
    TransformerConfig,
    prepare_for_inference_,
    prepared_for_inference,
)
from admin_init.nn.feed_forward import FeedForward
from admin_init.nn.inference import OneDNNFeedForward, OneDNNLinear

EOS = 2

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


def build(**options: Any) -> Transformer:
    torch.manual_seed(0)
    shape = {"vocabulary_size": 50, "dim": 16, "ffn_dim": 40, "heads": 2}
    layers = {"encoder_layers": 2, "decoder_layers": 3, "dropout": 0.1}
    return Transformer(TransformerConfig(**shape | layers | options))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 50, (3, 7), generator=generator)
    source[:, -1] = EOS
    target = torch.randint(4, 50, (3, 5), generator=generator)
    target[:, 0] = EOS
    return source, target


def replaced(model: nn.Module) -> int:
    return sum(isinstance(module, OneDNNLinear) for module in model.modules())


@pytest.mark.parametrize("residual", ["post", "pre", "admin", "b2t", "resi-dual"])
def test_a_prepared_model_computes_the_same(residual: str) -> None:
    model = build(residual=residual).eval()
    prepared = prepare_for_inference_(copy.deepcopy(model).train())
    assert replaced(prepared) == 2 * 5 + 1  # each layer's feed-forward network, and the output
    with torch.no_grad():
        torch.testing.assert_close(prepared(*batch()), model(*batch()), rtol=1e-4, atol=1e-5)


def test_so_it_does_token_by_token() -> None:
    source, target = batch()
    model = prepare_for_inference_(build())
    encoded, cache = model.encode(source), model.new_cache()
    steps = [model.decode(target[:, t : t + 1], encoded, cache) for t in range(5)]
    expected = build().eval()(source, target)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_within_a_feed_forward_network_stays_between_its_products() -> None:
    model = build(residual="sub-ln").eval()
    prepared = prepare_for_inference_(copy.deepcopy(model))
    assert replaced(prepared) == 1
    torch.testing.assert_close(prepared(*batch()), model(*batch()), rtol=1e-4, atol=1e-5)


def test_a_model_may_be_prepared_twice_and_in_inference_mode() -> None:
    model = build()
    with torch.inference_mode():
        prepare_for_inference_(prepare_for_inference_(model))
    assert replaced(model) == 11
    torch.testing.assert_close(model(*batch()), build().eval()(*batch()), rtol=1e-4, atol=1e-5)


def test_a_model_that_was_prepared_meanwhile_trains_on() -> None:
    model, expected = build(), build()
    expected.decoder.eval()
    model.decoder.eval()
    modules = dict(model.named_modules())
    with pytest.raises(ValueError, match="at most `max_positions`"), prepared_for_inference(model):
        model(torch.full((1, 5000), EOS), torch.tensor([[EOS]]))
    assert dict(model.named_modules()) == modules
    assert [module.training for module in model.modules()] == [
        module.training for module in expected.modules()
    ]
    for one in (model, expected):
        torch.manual_seed(2)
        one(*batch()).sum().backward()
        torch.optim.SGD(one.parameters(), lr=0.1).step()
    # It is prepared with the weights that it has now.
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name])
    with prepared_for_inference(model), prepared_for_inference(model), torch.no_grad():
        found = model(*batch())
    torch.testing.assert_close(found, expected.eval()(*batch()), rtol=1e-4, atol=1e-5)


def test_a_model_that_was_prepared_for_good_stays_so() -> None:
    model = prepare_for_inference_(build())
    with prepared_for_inference(model):
        assert replaced(model) == 11
    assert replaced(model) == 11


def test_weights_that_are_cast_as_they_are_used_are_left_as_they_are() -> None:
    model = build()
    with torch.autocast("cpu", torch.bfloat16), prepared_for_inference(model):
        assert replaced(model) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_as_they_are(dtype: torch.dtype) -> None:
    model = prepare_for_inference_(build().to(dtype))
    assert replaced(model) == 0
    assert not model.training
    assert model(*batch()).dtype == dtype


def test_nothing_is_done_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert replaced(prepare_for_inference_(build())) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 10, bias=bias), torch.randn(shape)
    layer = OneDNNLinear(linear)
    torch.testing.assert_close(layer(x), linear(x), rtol=1e-5, atol=1e-6)
    assert repr(layer) == f"OneDNNLinear(6, 10, bias={bias})"


def test_a_feed_forward_network() -> None:
    torch.manual_seed(0)
    ffn, x = FeedForward(6, 10, dropout=0.5, activation_dropout=0.5).eval(), torch.randn(2, 3, 6)
    kept = x.clone()
    torch.testing.assert_close(OneDNNFeedForward(ffn)(x), ffn(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(x, kept)
