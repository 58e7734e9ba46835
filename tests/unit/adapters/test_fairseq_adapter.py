"""fairseq's layers, installed, copied, stored, compiled, interrupted and profiled.

That they compute the formulas is for tests/parity/test_fairseq_adapter_parity.py.
"""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from _helpers.perturb import perturb_, train_omegas_
from _helpers.small_fairseq import (
    Batch,
    D,
    config,
    language_model,
    logits,
    make_batch,
    options,
    transformer,
)
from torch import Tensor, nn

import admin_init
from admin_init import find_sites
from admin_init.nn import Transformer
from admin_init.nn import TransformerConfig as NativeConfig

from fairseq.modules.transformer_layer import (  # isort: skip
    TransformerDecoderLayer,
    TransformerDecoderLayerBase,
    TransformerEncoderLayer,
    TransformerEncoderLayerBase,
)


@pytest.fixture
def batch() -> Batch:
    return make_batch()


def names(model: nn.Module) -> list[str]:
    return [site.name for site in find_sites(model)]


# Finding them.


def test_sites_have_the_names_that_the_native_model_gives_them(
    batch: Batch,
) -> None:
    torch.manual_seed(0)
    native = Transformer(
        NativeConfig(
            vocabulary_size=16, dim=D, ffn_dim=24, heads=4, encoder_layers=2, decoder_layers=2
        )
    )
    model = transformer()
    assert names(model) == names(native)
    assert [site.stack for site in find_sites(model)] == ["encoder"] * 4 + ["decoder"] * 6
    profile = admin_init.profile(native, [(batch[0], batch[2])])
    admin_init.apply_(model, profile)
    for site, profiled in zip(find_sites(model), profile.sites, strict=True):
        assert site.omega is not None
        assert torch.equal(site.omega, torch.full((D,), profiled.omega))


def test_a_decoder_without_cross_attention_has_no_site_for_it() -> None:
    model = language_model()
    places = ["layers.0.self_attn", "layers.0.ffn", "layers.1.self_attn", "layers.1.ffn"]
    assert names(model) == [f"decoder.{place}" for place in places]


def test_layers_by_themselves() -> None:
    assert names(TransformerEncoderLayer(options())) == ["self_attn", "ffn"]
    assert names(TransformerDecoderLayer(options())) == ["self_attn", "cross_attn", "ffn"]


def test_pre_ln_is_refused() -> None:
    with pytest.raises(
        admin_init.NotPostLNError,
        match=r"`encoder.layers.0` is Pre-LN \(normalize_before=True\).*normalize_before=False",
    ):
        find_sites(transformer(encoder_normalize_before=True, decoder_normalize_before=True))


def test_quantization_noise_is_refused() -> None:
    with pytest.raises(admin_init.UnsupportedModelError, match=r"noise \(quant_noise_pq = 0.1\)"):
        find_sites(transformer(quant_noise_pq=0.1))


def test_another_residual_connection_is_refused() -> None:
    class Halved(TransformerEncoderLayerBase):  # type: ignore[misc]
        def residual_connection(self, x: Tensor, residual: Tensor) -> Tensor:
            return residual + 0.5 * x

    with pytest.raises(
        admin_init.UnsupportedModelError,
        match=r"Halved at `0` overrides `residual_connection`.*named_sites",
    ):
        find_sites(nn.ModuleList([Halved(config())]))


# Putting omega in, and taking it out.


@pytest.mark.parametrize("build", [transformer, language_model])
def test_omegas_of_one_change_nothing_and_leave_no_trace(build: Any, batch: Batch) -> None:
    model, plain = build(dropout=0.2), build(dropout=0.2)
    admin_init.install_(model)
    assert type(model.decoder.layers[0]) is not TransformerDecoderLayerBase
    for mode in (True, False):
        outputs = []
        for each in (model.train(mode), plain.train(mode)):
            torch.manual_seed(3)
            outputs.append(logits(each, batch))
        assert torch.equal(*outputs)
    for site in find_sites(model):
        site.uninstall_()
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not any(module._forward_hooks for module in model.modules())


def test_each_omega_reaches_its_own_sub_layer(batch: Batch) -> None:
    """Sites that have none, in the same layer or in others, count as omega = 1."""
    for index, site in enumerate(find_sites(transformer())):
        some, every = transformer(), admin_init.install_(transformer())
        admin_init.install_(some, sites=[find_sites(some)[index]])
        for model in (some, every):
            omega = find_sites(model)[index].omega
            assert omega is not None
            omega.data.fill_(5.0)
        assert sum(site.installed for site in find_sites(some)) == 1
        assert torch.equal(logits(some, batch), logits(every, batch)), site.name
        assert not torch.equal(logits(some, batch), logits(transformer(), batch)), site.name


def test_a_layer_that_extends_forward(batch: Batch) -> None:
    class Counting(TransformerDecoderLayerBase):  # type: ignore[misc]
        calls = 0

        def forward(self, *args: Any, **options: Any) -> Any:
            self.calls += 1
            return super().forward(*args, **options)

    model, expected = transformer(), train_omegas_(perturb_(transformer()))
    for layer in model.decoder.layers:
        layer.__class__ = Counting
    train_omegas_(perturb_(model))
    assert torch.equal(logits(model, batch), logits(expected, batch))
    assert [layer.calls for layer in model.decoder.layers] == [1, 1]
    assert isinstance(model.decoder.layers[0], Counting)
    with pytest.raises(admin_init.FoldError, match="Counting overrides `forward`"):
        admin_init.fold_(model)


def test_the_fused_kernel_of_inference_stays_out(
    monkeypatch: pytest.MonkeyPatch, batch: Batch
) -> None:
    monkeypatch.delattr(TransformerEncoderLayerBase, "can_use_fastpath")
    kernel = torch._transformer_encoder_layer_fwd
    calls: list[str] = []

    def spy(*args: Any) -> Tensor:
        calls.append("fused")
        return kernel(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", spy)
    without_padding = (batch[2], *batch[1:])
    plain, model = transformer(), train_omegas_(perturb_(transformer()))
    expected = logits(model, without_padding)
    outputs = []
    for each in (plain, model):
        # The path is taken by a model that was loaded and never trained.
        each.load_state_dict(each.state_dict())
        for layer in each.encoder.layers:
            layer.ever_training = False
        with torch.no_grad():
            outputs.append((logits(each.eval(), without_padding), calls.copy()))
        calls.clear()
    assert outputs[0][1] == ["fused"] * 2
    assert outputs[1][1] == []
    torch.testing.assert_close(outputs[1][0], expected, atol=1e-5, rtol=1e-5)


# Copies, and what is stored.


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("changes", [{}, {"checkpoint_activations": True}])
def test_copies(how: str, changes: Any, batch: Batch) -> None:
    model = train_omegas_(perturb_(transformer(**changes)))
    expected = logits(model, batch)
    other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(other, batch), expected)
    for site in find_sites(other):
        assert site.omega is not None
        site.omega.data.fill_(1.0)
    plain = logits(other, batch)
    assert not torch.equal(plain, expected)
    assert torch.equal(logits(model, batch), expected)
    for site in find_sites(other):
        site.uninstall_()
    assert type(other.encoder.layers[0]) is TransformerEncoderLayerBase
    assert not any(module._forward_hooks for module in other.modules())
    assert torch.equal(logits(other, batch), plain)


def test_state_dict_round_trip(batch: Batch) -> None:
    model, other = train_omegas_(perturb_(transformer())), admin_init.install_(transformer())
    state = model.state_dict()
    assert "decoder.layers.1.encoder_attn_skip.omega" in state
    other.load_state_dict(state)
    assert torch.equal(logits(other, batch), logits(model, batch))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*self_attn_skip.omega"):
        transformer().load_state_dict(state)


def test_a_plain_checkpoint_loads_as_omega_one_with_a_warning(
    batch: Batch,
) -> None:
    plain, model = transformer(), train_omegas_(perturb_(transformer()))
    with pytest.warns(UserWarning, match="The checkpoint has no omega"):
        model.load_state_dict(plain.state_dict())
    assert torch.equal(logits(model, batch), logits(plain, batch))


# Which sub-layer is running.


def test_after_an_exception_in_any_sub_layer(batch: Batch) -> None:
    model = train_omegas_(perturb_(transformer()))
    expected = logits(model, batch)

    def fail(*_: object) -> None:
        raise ArithmeticError

    for layer in (model.encoder.layers[1], model.decoder.layers[0]):
        for name in ("self_attn", "encoder_attn", "fc2"):
            if hasattr(layer, name):
                handle = getattr(layer, name).register_forward_hook(fail)
                with pytest.raises(ArithmeticError):
                    logits(model, batch)
                handle.remove()
                assert torch.equal(logits(model, batch), expected)


def test_two_threads_in_the_same_sub_layer_at_once(batch: Batch) -> None:
    model = train_omegas_(perturb_(transformer()).eval())
    expected = logits(model, batch)
    together = threading.Barrier(2, timeout=20)

    def meet(*_: object) -> None:
        together.wait()

    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.dropout_module.register_forward_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda _: logits(model, batch), range(2)))
    assert all(torch.equal(output, expected) for output in outputs)


# Profiling.


def test_a_profile_leaves_the_model_as_it_was(batch: Batch) -> None:
    model = transformer(dropout=0.3).eval()
    before = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    profile = admin_init.profile(model, [batch])
    assert all(site.omega != 1 for site in profile.sites if not site.name.endswith("0.self_attn"))
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    assert not any(layer.ever_training for layer in model.encoder.layers)
    assert type(model.encoder.layers[0]) is TransformerEncoderLayerBase
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("changes", [{"checkpoint_activations": True}, {"scale_resids": True}])
def test_options_that_leave_the_profile_as_it_is(changes: Any, batch: Batch) -> None:
    expected = admin_init.profile(transformer(), [batch])
    assert admin_init.profile(transformer(**changes), [batch]) == expected


def test_layerdrop_drops_nothing_while_profiling(batch: Batch) -> None:
    expected = admin_init.profile(transformer(), [batch])
    model = transformer(encoder_layerdrop=0.9, decoder_layerdrop=0.9)
    for _ in range(3):
        assert admin_init.profile(model, [batch]) == expected
    assert model.encoder.layers.p == model.decoder.layers.p == 0.9

    def fail(model: nn.Module, batch: object) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        admin_init.profile(model, [batch], forward=fail)
    assert model.encoder.layers.p == model.decoder.layers.p == 0.9


# The callback.
